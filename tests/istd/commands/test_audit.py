"""`istd audit` from points and masks over the page to reviewed ones that a data set reads."""

import json
import shutil

import numpy as np
import pytest
import yaml

from d2kit.files import write_png
from istd.audit.items import CHANGED, FAINT, NO_MASK, NO_POINT, SHARED, faintness, items_of
from istd.cli import main
from istd.data.datasets import load_sirst
from istd.data.images import read_mask
from istd.pseudo_masks.state import PseudoMasks


def spot(left, top, side, shape=(48, 64)):
    mask = np.zeros(shape, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


@pytest.fixture
def folder(tmp_path):
    """A data set of three images: a has the targets (10, 10) and (40, 30), b one without a mask, c nothing."""
    masks = {"a": spot(9, 9, 3) | spot(39, 29, 3) | spot(55, 5, 2), "b": spot(0, 0, 0), "c": spot(0, 0, 0)}
    noise = np.random.default_rng(0)
    for name, mask in masks.items():
        image = noise.normal(80, 4, mask.shape) + 120 * (mask + (name == "b") * spot(19, 19, 3))
        write_png(tmp_path / "data" / "images" / f"{name}.png", image.clip(0, 255).astype(np.uint8))
        write_png(tmp_path / "data" / "masks" / f"{name}.png", mask * 255)
    (tmp_path / "data" / "points.csv").write_text("image,x,y\na,10,10\na,40,30\nb,20,20\nc,,\n")
    (tmp_path / "data" / "train.txt").write_text("a\nb\nc\n")
    return tmp_path


def run(*arguments):
    return main(["audit", *map(str, arguments)])


def review(folder, decisions):
    text = (folder / "audit" / "data" / "index.js").read_text()
    source = json.loads(text.removeprefix("audit.receive(").removesuffix(");\n"))["source"]
    path = folder / "review.json"
    path.write_text(json.dumps({"source": source, "decisions": decisions}))
    return path


def test_points_are_audited_in_a_browser(folder, open_page):
    name = f"sirst:{folder}/data:train.txt:points=points.csv"
    assert run(name, "--output", folder / "audit") == 0
    page = open_page(folder / "audit")
    reasons = [text.split("\n")[1].partition(" ")[2] for text in page.locator("#cards button").all_inner_texts()]
    assert reasons == [NO_MASK, NO_POINT, "", ""]
    for key in "aar":  # The point without a mask and the mask without a point are right, and a target is none.
        page.keyboard.press(key)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save review.json").click()
    download.value.save_as(folder / "review.json")
    assert run(name, "--apply", folder / "review.json", "--output", folder / "reviewed") == 0
    options = {"points": str(folder / "reviewed/points.csv"), "masks": str(folder / "reviewed/masks")}
    records = load_sirst(folder / "data", "train.txt", **options)
    points = {record["image_id"]: record["points"] for record in records}
    decided = json.loads((folder / "review.json").read_text())["decisions"]
    rejected = next(key for key, item in decided.items() if item["decision"] == "reject")
    left = [10, 10] if rejected == "a#40,30" else [40, 30]
    assert sorted(points["a"]) == sorted([left, [55, 5]]) and (points["b"], points["c"]) == ([[20, 20]], [])
    mask = read_mask(folder / "reviewed" / "masks" / "a.png")
    assert mask.sum() == 9 + 4 and mask[left[1], left[0]]


def test_pseudo_masks_of_a_training_are_audited(folder):
    masks = PseudoMasks()
    for name in "abc":
        masks.put(name, np.zeros((48, 64)))
    masks.put("a", spot(10, 10, 1) * 1.0)
    masks.save(folder / "run" / "pseudo_masks")
    change = PseudoMasks()
    change.put("a", spot(8, 8, 6) * 0.9)
    masks.advance([change], 3)
    masks.save(folder / "run" / "pseudo_masks")
    name = f"sirst:{folder}/data:train.txt:points=points.csv"
    config = {"DATASETS": {"TRAIN": [name]}}
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert run(folder / "run", "--output", folder / "audit") == 0
    assert CHANGED in (folder / "audit" / "data" / "index.js").read_text()
    reviewed = review(folder, {"a#10,10": {"decision": "other"}, "b#20,20": {"decision": "reject"}})
    assert run(folder / "run", "--apply", reviewed, "--output", folder / "reviewed") == 0
    assert read_mask(folder / "reviewed" / "masks" / "a.png").sum() == 1
    assert (folder / "reviewed" / "points.csv").read_text().split() == ["image,x,y", "a,10,10", "a,40,30", "b,,", "c,,"]


@pytest.mark.parametrize(
    ("decisions", "message"),
    [({"a#1,1": {"decision": "accept"}}, "decides on 'a#1,1'"), ({"a": {"decision": "eat"}}, "row 'a' is none of")],
)
def test_a_review_that_does_not_fit_is_one_sentence(folder, capsys, decisions, message):
    name = f"sirst:{folder}/data:train.txt:points=points.csv"
    run(name, "--output", folder / "audit")
    assert run(name, "--apply", review(folder, decisions), "--output", folder / "reviewed") == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (folder / "reviewed").exists()


def test_an_output_that_exists_and_a_folder_without_a_training_are_refused(folder, capsys):
    name = f"sirst:{folder}/data:train.txt:points=points.csv"
    run(name, "--output", folder / "audit")
    reviewed = review(folder, {})
    assert run(name, "--apply", reviewed, "--output", folder / "data") == 1
    assert "exists: choose another output" in capsys.readouterr().err
    assert run(name, "--output", folder / "data" / "images" / "audit") == 1
    assert run(folder / "data", "--output", folder / "other") == 1
    assert "holds no pseudo-masks" in capsys.readouterr().err
    shutil.rmtree(folder / "audit")


def test_items_of_no_image_and_of_two_points_in_one_mask(folder):
    assert items_of([], {}, {}) == []
    record = {"image_id": "a", "file_name": str(folder / "data/images/a.png"), "points": [[9, 9], [11, 11]]}
    items = items_of([record], {"a": spot(9, 9, 3) > 0}, {})
    assert [item.reasons for item in items] == [(SHARED,), (SHARED,)]
    assert items_of([{**record, "points": [[30, 40]]}], {}, {})[0].reasons == (FAINT,)


def test_a_spot_is_faint_by_the_noise_around_it():
    gray = np.random.default_rng(1).normal(100, 5, (40, 40)).astype(np.float32)
    gray[20, 20] = 200
    assert faintness(gray, (20, 20)) == 0 and faintness(-gray, (20, 20)) == 0
    assert faintness(np.full((40, 40), 7, np.float32), (0, 39)) == 1
