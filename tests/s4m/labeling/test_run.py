"""The labels of a folder: their content, resumption, shards, cache and refusals."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_util

from d2kit.coco_masks import decode_segmentation
from d2kit.faults import ERROR
from s4m.data.coco import read_coco
from s4m.labeling.run import label_folder

NAMES = ["000001.png", "000003.png", "000004.png", "000005.png", "deep/a b.png"]


def content(path):
    return json.loads(path.read_text())


class Killed(Exception):
    """Stands for a kill in this process."""


def killed_after(count):
    def watch(images, done):
        for number, image in enumerate(images):
            if number == count:
                raise Killed
            yield image

    return watch


def test_images_and_categories(labeled, shapes):
    data = content(labeled.path)
    assert [image["file_name"] for image in data["images"]] == NAMES
    assert [image["id"] for image in data["images"]] == [1, 2, 3, 4, 6]
    assert data["images"][1] == {"id": 2, "file_name": "000003.png", "height": 100, "width": 150}
    assert [category["id"] for category in data["categories"]] == [1, 2, 3, 4, 5]
    assert data["info"]["left_out"] == ["broken.png"]
    assert "broken.png" in labeled.failed["broken.png"]
    assert labeled.info["network"] == "stage 1"
    assert not list(labeled.path.parent.glob("*.jsonl"))


def test_each_annotation_is_complete(labeled):
    data = content(labeled.path)
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    annotations = data["annotations"]
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))
    assert len(annotations) > 10
    for annotation in annotations:
        mask = decode_segmentation(annotation["segmentation"], *sizes[annotation["image_id"]])
        assert annotation["area"] == mask.sum() > 0
        assert annotation["bbox"] == mask_util.toBbox(annotation["segmentation"]).tolist()
        assert annotation["iscrowd"] == 0
        assert 0 < annotation["score"] <= 1 and 0 < annotation["confidence"] < 1
        assert ("teacher_segmentation" in annotation) == annotation["refined"]
        if annotation["refined"]:
            before = decode_segmentation(annotation["teacher_segmentation"], *sizes[annotation["image_id"]])
            if sizes[annotation["image_id"]] == (64, 64):  # A view of another size rounds the masks.
                iou = (mask & before).sum() / (mask | before).sum()
                assert annotation["agreement"] == pytest.approx(iou, abs=1e-5)
            assert annotation["sam_quality"] is not None
    assert any(annotation["refined"] for annotation in annotations)


def test_the_check_of_data_sets_finds_no_fault(labeled, images):
    _, faults = read_coco(labeled.path, images)
    assert not faults.of(ERROR)


def test_confidence_is_fitted_to_labeled_images(labeled):
    calibration = labeled.info["calibration"]
    assert calibration["source"] == "labeled images" and calibration["samples"] > 0
    assert calibration["weights"] != [0, 0, 1, 1 / 3, 1 / 3]


@pytest.mark.parametrize("count", [0, 3])
def test_a_labeling_goes_on_where_it_stopped(count, labeled, stage_1, images, tmp_path):
    with pytest.raises(Killed):
        label_folder(stage_1, images, tmp_path, watch=killed_after(count))
    lines = tmp_path / "labels.jsonl"
    assert len(lines.read_bytes().splitlines()) == 1 + count
    with open(lines, "ab") as file:
        file.write(b'{"image":{"id":9,"file')  # A kill cut the last line off.
    seen = []
    label_folder(stage_1, images, tmp_path, watch=lambda rest, done: seen.append((len(rest), done)) or rest)
    assert seen == [(6 - count, count)]
    assert (tmp_path / "labels.json").read_bytes() == labeled.bytes


def test_finished_labels_stay(labeled, stage_1, images):
    again = label_folder(stage_1, images, labeled.path.parent, watch=killed_after(0))
    assert again.path.read_bytes() == labeled.bytes


def test_shards_give_the_labels_of_the_whole_in_any_order(labeled, stage_1, images, tmp_path):
    paths = [label_folder(stage_1, images, tmp_path, shard=(number, 2)).path.name for number in (2, 1)]
    assert paths == ["labels.2-of-2.json", "labels.json"]
    assert (tmp_path / "labels.json").read_bytes() == labeled.bytes


def test_other_settings_are_refused_with_their_names(labeled, stage_1, images, tmp_path):
    with pytest.raises(ValueError, match=r"differs in S4M.PR.POINTS, S4M.SELECTION.SCORE: choose another --output"):
        options = ["S4M.PR.POINTS", "2", "S4M.SELECTION.SCORE", "0.06"]
        label_folder(stage_1, images, labeled.path.parent, options=options)
    with pytest.raises(Killed):
        label_folder(stage_1, images, tmp_path, watch=killed_after(1))
    with pytest.raises(ValueError, match=r"labels.jsonl' has labels of another labeling, which differs in SEED"):
        label_folder(stage_1, images, tmp_path, options=["SEED", "4"])


def test_foreign_files_are_refused(stage_1, images, tmp_path):
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(ValueError, match="is no file of `s4m label`"):
        label_folder(stage_1, images, tmp_path)
    assert (tmp_path / "labels.json").read_text() == "{}"


def test_a_run_without_checkpoint_or_configuration_is_refused(images, stage_1, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no config.yaml"):
        label_folder(tmp_path, images, tmp_path / "labels")
    (tmp_path / "config.yaml").write_text((stage_1 / "config.yaml").read_text())
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        label_folder(tmp_path, images, tmp_path / "labels")


def test_weights_of_another_network_are_refused(stage_1, images, tmp_path):
    (tmp_path / "config.yaml").write_text((stage_1 / "config.yaml").read_text())
    torch.save({"model": {"student.other": torch.zeros(1)}}, tmp_path / "model_best.pth")
    with pytest.raises(ValueError, match="model_best.pth' lacks weights of the network"):
        label_folder(tmp_path, images, tmp_path / "labels")


def test_without_refinement_and_calibration_the_confidence_is_the_score(stage_1, images, tmp_path):
    options = ["S4M.PR.ENABLED", "False", "S4M.CALIBRATION.ENABLED", "False"]
    result = label_folder(stage_1, images, tmp_path, options=options)
    assert result.info["calibration"] == {"source": "none", "samples": 0, "weights": []}
    for annotation in content(result.path)["annotations"]:
        assert annotation["confidence"] == annotation["score"]
        assert annotation["sam_quality"] is annotation["agreement"] is None
        assert not annotation["refined"] and "teacher_segmentation" not in annotation


def test_the_cache_is_filled_and_used(stage_1, images, tmp_path):
    options = ["S4M.SAM.CACHE", str(tmp_path / "cache"), "S4M.CALIBRATION.ENABLED", "False"]
    cold = label_folder(stage_1, images, tmp_path / "cold", options=options)
    files = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "cache").rglob("*.embedding")}
    assert len(files) == len(NAMES)
    warm = label_folder(stage_1, images, tmp_path / "warm", options=options)
    assert {path: os.stat(path).st_mtime_ns for path in (tmp_path / "cache").rglob("*.embedding")} == files
    assert warm.path.read_bytes() == cold.path.read_bytes()


def test_stage_2_labels_by_either_network_and_its_own_calibration(make_run, images, tmp_path):
    run = make_run("stage2", semi=True, checkpoint="model_best.pth", TEST__DETECTIONS_PER_IMAGE=6)
    state = torch.load(run / "model_best.pth", weights_only=True)
    for name, value in state["model"].items():
        if name.startswith("teacher.") and value.is_floating_point():
            value.mul_(1.05)  # At the start the teacher is the student.
    weights = torch.tensor([0.5, 0.0, 1.0, 0.3, 0.3], dtype=torch.float64)
    state["model"]["calibration.weights"].copy_(weights)
    state["model"]["calibration.drawn"].fill_(7)
    torch.save(state, run / "model_best.pth")
    results = {
        network: label_folder(run, images, tmp_path / network, network=network) for network in ("teacher", "student")
    }
    assert results["teacher"].checkpoint.name == "model_best.pth"
    expected = {"source": "checkpoint", "samples": 7, "weights": weights.tolist()}
    scores = {}
    for network, result in results.items():
        assert result.info["network"] == network and result.info["calibration"] == expected
        scores[network] = [annotation["score"] for annotation in content(result.path)["annotations"]]
    assert not np.array_equal(scores["teacher"], scores["student"])


def test_a_checkpoint_knows_its_classes_and_held_out_labels_may_order_them_otherwise(stage_1, shapes, images, tmp_path):
    run = shutil.copytree(stage_1, tmp_path / "run")
    checkpoint = torch.load(run / "model_final.pth", weights_only=True)
    _, file, folder = shapes.labeled.split(":")
    data = content(Path(file))
    names = [category["name"] for category in data["categories"]]
    torch.save(checkpoint | {"trainer": {"classes": names}}, run / "model_final.pth")
    fits = []
    for title, order in (("same", 1), ("reversed", -1)):
        ids = {category["id"]: number for number, category in enumerate(data["categories"][::order], 1)}
        categories = [{"id": ids[category["id"]], "name": category["name"]} for category in data["categories"]]
        annotations = [item | {"category_id": ids[item["category_id"]]} for item in data["annotations"]]
        path = tmp_path / f"{title}.json"
        path.write_text(json.dumps(data | {"categories": categories, "annotations": annotations}))
        keys = ["DATASETS.TRAIN", f"('coco:{path}:{folder}',)"]
        labels = content(label_folder(run, images, tmp_path / title, options=keys).path)
        assert [category["name"] for category in labels["categories"]] == names
        fits.append(labels["info"]["calibration"])
    assert fits[0] == fits[1]
    keys = ["DATASETS.TRAIN", "('coco:absent.json:absent',)", "S4M.CALIBRATION.ENABLED", "False"]
    labels = content(label_folder(run, images, tmp_path / "absent", options=keys).path)
    assert [category["name"] for category in labels["categories"]] == names
