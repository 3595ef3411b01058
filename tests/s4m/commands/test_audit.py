"""`s4m audit` from labels over the page in a browser to audited labels."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from d2kit.coco_masks import decode_segmentation, encode_mask
from s4m.cli import main
from s4m.data.coco import validate_coco
from s4m.data.shapes import write_shapes


@pytest.fixture
def labels(tmp_path):
    """A json of labels as `s4m label` writes it, with masks before SAM, and the folder of its images."""
    path = write_shapes(tmp_path / "shapes", 4, seed=2, image_size=(64, 64))
    content = json.loads(path.read_text())
    for number, annotation in enumerate(content["annotations"]):
        before = np.roll(decode_segmentation(annotation["segmentation"], 64, 64), 1, axis=0)
        annotation |= {"score": 0.9, "confidence": 0.5 + number / 100, "sam_quality": None, "agreement": 0.8}
        annotation |= {"refined": True, "teacher_segmentation": encode_mask(before)["segmentation"]}
    path.write_text(json.dumps(content))
    return path, path.parent / "images", content


def run(*arguments):
    return main(["audit", *map(str, arguments)])


def review(tmp_path, decisions):
    """A review as the page in `tmp_path/audit` saves it."""
    text = (tmp_path / "audit" / "data" / "index.js").read_text()
    source = json.loads(text.removeprefix("audit.receive(").removesuffix(");\n"))["source"]
    path = tmp_path / "review.json"
    path.write_text(json.dumps({"source": source, "decisions": decisions}))
    return path


def test_labels_are_audited_in_a_browser(labels, tmp_path, open_page):
    path, images, content = labels
    before = path.read_bytes()
    assert run(path, "--images", images, "--output", tmp_path / "audit") == 0
    page = open_page(tmp_path / "audit")
    for key in "ar3o":  # The first row is the least sure label, which is the first of the json.
        page.keyboard.press(key)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save review.json").click()
    download.value.save_as(tmp_path / "review.json")
    assert run(path, "--apply", tmp_path / "review.json", "--output", tmp_path / "audited.json") == 0
    audited = {item["id"]: item for item in validate_coco(tmp_path / "audited.json", images)["annotations"]}
    first = content["annotations"]
    decided = list(json.loads((tmp_path / "review.json").read_text())["decisions"].items())
    assert [item["decision"] for _, item in decided] == ["accept", "reject", "class", "other"]
    accepted, rejected, changed, other = (int(name) for name, _ in decided)
    assert audited[accepted]["confidence"] == 1 and audited[accepted]["reviewed"]
    assert rejected not in audited and audited[changed]["category_id"] == 3
    assert audited[other]["segmentation"] == first[other - 1]["teacher_segmentation"]
    assert not audited[other]["refined"] and len(audited) == len(first) - 1
    untouched = next(item for item in first if str(item["id"]) not in dict(decided))
    assert audited[untouched["id"]] == untouched
    assert path.read_bytes() == before


def test_given_labels_are_audited_against_predictions(labels, tmp_path):
    path, images, content = labels
    first, *rest = content["annotations"]
    wanted = ("image_id", "category_id", "segmentation")
    found = [{key: item[key] for key in wanted} | {"score": 0.9} for item in content["annotations"]]
    found[1]["category_id"] = rest[0]["category_id"] % 5 + 1
    results = tmp_path / "found.json"
    results.write_text(json.dumps(found))
    path.write_text(json.dumps(content | {"annotations": rest}))
    given = (path, "--predictions", results)
    assert run(*given, "--images", images, "--output", tmp_path / "audit") == 0
    decisions = {"prediction 0": {"decision": "accept"}, str(rest[0]["id"]): {"decision": "other"}}
    reviewed = review(tmp_path, decisions)
    assert run(*given, "--apply", reviewed, "--output", tmp_path / "audited.json") == 0
    audited = validate_coco(tmp_path / "audited.json", images)["annotations"]
    assert len(audited) == len(content["annotations"])
    assert audited[0]["category_id"] == found[1]["category_id"]
    added = audited[-1]
    assert added["segmentation"] == first["segmentation"] and added["id"] > max(item["id"] for item in rest)
    as_coco = {key: content[key] for key in ("images", "categories")} | {"annotations": found}
    results.write_text(json.dumps(as_coco))
    assert run(*given, "--images", images, "--output", tmp_path / "audit", "--overwrite") == 0


def test_a_training_predicts_the_images_of_given_labels(labels, tmp_path, small_cfg, capsys):
    path, images, content = labels
    cfg = small_cfg("supervised", semi=False, MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "run" / "model_best.pth")
    given = (path, "--images", images, "--output", tmp_path / "audit")
    assert run(*given, "--run", tmp_path / "run") == 0
    told = capsys.readouterr().out
    kept = tmp_path / "audit" / "predictions.json"
    assert "student of" in told and f"--apply needs --predictions {kept}" in told
    results = json.loads(kept.read_text())
    assert {result["image_id"] for result in results} <= {image["id"] for image in content["images"]}
    assert results and all(0 <= result["score"] <= 1 and result["area"] > 0 for result in results)
    reviewed = review(tmp_path, {"1": {"decision": "reject"}})
    assert run(path, "--predictions", kept, "--apply", reviewed, "--output", tmp_path / "audited.json") == 0
    audited = json.loads((tmp_path / "audited.json").read_text())["annotations"]
    assert [item["id"] for item in audited] == [item["id"] for item in content["annotations"] if item["id"] != 1]
    assert run(*given, "--run", tmp_path / "run") == 1 and "exists" in capsys.readouterr().err
    assert run(*given, "--predictions", kept, "--overwrite") == 0 and json.loads(kept.read_text()) == results


def test_ordinary_coco_with_polygons_has_a_page(labels, tmp_path):
    path, images, content = labels
    image = content["images"][0]["id"]
    square = [[5, 5, 25, 5, 25, 25, 5, 25]]
    plain = {"id": 7, "image_id": image, "category_id": 1, "bbox": [5, 5, 20, 20], "segmentation": square}
    path.write_text(json.dumps(content | {"annotations": [plain]}))
    assert run(path, "--images", images, "--output", tmp_path / "audit", "--most", "1") == 0
    path.write_text(json.dumps(content | {"annotations": []}))
    assert run(path, "--images", images, "--output", tmp_path / "audit", "--overwrite") == 0


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ({"none": {"decision": "accept"}}, "decides on 'none', which is not in the labels"),
        ({"1": {"decision": "class", "class": "cat"}}, "the class 'cat', which the labels lack"),
    ],
)
def test_a_review_that_does_not_fit_is_one_sentence(labels, tmp_path, capsys, decisions, message):
    path, images, _ = labels
    run(path, "--images", images, "--output", tmp_path / "audit")
    reviewed = review(tmp_path, decisions)
    assert run(path, "--apply", reviewed, "--output", tmp_path / "audited.json") == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "audited.json").exists()


def test_an_input_is_never_written_over(labels, tmp_path, capsys):
    path, images, _ = labels
    run(path, "--images", images, "--output", tmp_path / "audit")
    reviewed = review(tmp_path, {})
    for output in (path, reviewed):
        before = output.read_bytes()
        assert run(path, "--apply", reviewed, "--output", output) == 1
        assert "is one of the inputs" in capsys.readouterr().err and output.read_bytes() == before
    path.write_text(path.read_text() + " ")
    assert run(path, "--apply", reviewed, "--output", tmp_path / "audited.json") == 1
    assert "is a review of other labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"score": 2}, "prediction 0 has the score 2"),
        ({"category_id": 99}, "prediction 0 has the category 99"),
        ({"segmentation": None}, "prediction 0: an object has no segmentation"),
        ({"segmentation": {"size": [64, 64], "counts": "11"}}, "prediction 0 has a damaged RLE"),
        ({"image_id": 99}, "no prediction for any of the images"),
    ],
)
def test_a_bad_prediction_is_named(labels, tmp_path, capsys, result, message):
    path, images, content = labels
    good = {key: content["annotations"][0][key] for key in ("image_id", "category_id", "segmentation")}
    results = tmp_path / "found.json"
    results.write_text(json.dumps([good | {"score": 0.5} | result]))
    assert run(path, "--predictions", results, "--images", images, "--output", tmp_path / "audit") == 1
    error = capsys.readouterr().err
    assert "found.json" in error and message in error and error.count("\n") == 1
    assert not (tmp_path / "audit").exists()
