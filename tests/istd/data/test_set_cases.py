"""The shared cases about points, sets and targets give what their table expects (needs S4M_TEST_DATA)."""

import json
import subprocess
import sys

import numpy as np
import pytest

from istd.data.check import check_before_training, check_config
from istd.data.datasets import load_sirst
from istd.engine.data import TrainingData, load_datasets

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def cases(shared, tmp_path_factory):
    """Folder of the cases and the table of what is expected of them."""
    script = shared / "cases" / "make_istd_cases.py"
    if not script.is_file():
        pytest.skip(f"{script} does not exist")
    folder = tmp_path_factory.mktemp("cases") / "istd"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, cwd=script.parent)
    return folder, json.loads((folder / "expected.json").read_text())


@pytest.fixture
def case(cases, request):
    """Folder, numbers and truth of the case that the test names."""
    folder, table = cases
    name = request.param
    truth = folder / name / "truth" / "targets.json"
    return folder / name, table[name]["numbers"], json.loads(truth.read_text()) if truth.is_file() else {}


@pytest.fixture
def configuration(istd_cfg, tmp_path):
    """Function (folder of a case, points, options) -> the configuration of a training on it."""

    def make(folder, points="", name="quick_pal", **more):
        option = f":points={points}" if points else ""
        sets = {
            f"DATASETS__{key}": (f"sirst:{folder}:{split}.txt{option}",)
            for key, split in zip(("TRAIN", "VALIDATION", "TEST"), SPLITS, strict=True)
        }
        return istd_cfg(name, **{"OUTPUT_DIR": str(tmp_path), "ISTD__LABELS__EASY_SHARE": 0.8, **sets, **more})

    return make


def refusal(cfg) -> str:
    with pytest.raises(ValueError) as error:
        check_before_training(cfg)
    return str(error.value)


def first_masks(cfg) -> tuple[int, float]:
    """Number of training images with first masks, and their IoU with the true masks in 0..1."""
    labels = TrainingData(cfg).labels
    labels.start()
    return len(labels.pool()), labels.quality()["labels/iou_true"] / 100


@pytest.mark.parametrize("case", ["sequence_folders"], indirect=True)
def test_sequences(case, configuration):
    folder, numbers, truth = case
    records = [record for split in SPLITS for record in load_sirst(folder, split)]
    assert len({record["image_id"] for record in records}) == numbers["different_image_ids"]
    assert sum("mask_file" in record for record in records) == numbers["images_with_a_mask"]
    for record in records:
        assert sorted(record["points"]) == sorted(truth[record["image_id"]]["points"])
    assert first_masks(configuration(folder))[0] == numbers["images"]["train"]


@pytest.mark.parametrize("case", ["two_sets_equal_names"], indirect=True)
def test_two_sets_with_equal_names(case, configuration):
    folder, numbers, _ = case
    names = tuple(f"sirst:{folder / name}:train.txt" for name in ("set_a", "set_b"))
    for scheme in ("quick_pal", "quick_full"):
        data = TrainingData(configuration(folder / "set_a", name=scheme, DATASETS__TRAIN=names))
        assert len(data.train) == numbers["training_images"]
        assert len({record["image_id"] for record in data.train}) == numbers["different_image_ids"]
        if data.labels is not None:
            data.labels.start()
            assert len(data.labels.masks) == numbers["training_images"]


@pytest.mark.parametrize("case", ["train_in_test"], indirect=True)
def test_training_images_in_the_test_set(case, configuration):
    folder, numbers, _ = case
    faults = check_config(configuration(folder))
    [cause] = [fault for part in faults for fault in part.of("warning")]
    assert not any(part.of("error") for part in faults) and cause.count == numbers["training_images_in_test"]
    assert "2 images of DATASETS.TEST are images of DATASETS.TRAIN" in str(cause) and "scene_00" in str(cause)


@pytest.mark.parametrize("case", ["points_csv_01"], indirect=True)
def test_fractions(case, configuration):
    folder, numbers, truth = case
    for scheme in ("quick_pal", "quick_lesps"):
        sentence = refusal(configuration(folder, numbers["file"], scheme))
        assert numbers["file"] in sentence and "0..1" in sentence
    for record in load_sirst(folder, "train", points=numbers["file"], unit="fraction"):
        assert record["points"] == truth[record["image_id"]]["points"]


@pytest.mark.parametrize(
    ("case", "points"),
    [
        ("points_dots_3x3", "masks_centroid"),
        ("points_coco_other_size", "points.json"),
        ("points_yolo", "labels"),
        ("points_labelme", "labelme"),
    ],
    indirect=["case"],
)
def test_points_of_tools(case, configuration, points):
    folder, numbers, truth = case
    for record in load_datasets([f"sirst:{folder}:{split}.txt:points={points}" for split in SPLITS], "test"):
        assert len(record["points"]) == numbers["points_of_each_image"]
        distance = np.subtract(sorted(record["points"]), sorted(truth[record["image_id"]]["points"]))
        assert np.abs(distance).max() <= numbers.get("within_pixels", 0)
    assert first_masks(configuration(folder, points))[0] == numbers["images"]["train"]


@pytest.mark.parametrize("case", ["targets_dark"], indirect=True)
def test_dark_targets(case, configuration):
    folder, numbers, _ = case
    for scheme in ("quick_pal", "quick_lesps"):
        assert "for one: set ISTD.INPUT.POLARITY to dark" in refusal(configuration(folder, name=scheme))
    for polarity in ("dark", "both"):
        cfg = configuration(folder, ISTD__INPUT__POLARITY=polarity)
        check_before_training(cfg)
        images, iou = first_masks(cfg)
        assert images == numbers["training_images_with_first_masks"]
        assert iou >= numbers["IoU_of_first_masks_with_truth"]


@pytest.mark.parametrize("case", ["targets_40px"], indirect=True)
def test_large_targets(case, configuration):
    folder, numbers, _ = case
    sentence = refusal(configuration(folder))
    assert f"window of {numbers['window_pixels']} pixels" in sentence
    assert f"at most {numbers['largest_area_of_a_first_mask']} pixels" in sentence
    size = int(sentence.partition("ISTD.LABELS.TARGET_SIZE to ")[2].partition(",")[0])
    cfg = configuration(folder, ISTD__LABELS__TARGET_SIZE=size)
    check_before_training(cfg)
    images, iou = first_masks(cfg)
    assert images == 4 and iou > 0.5
