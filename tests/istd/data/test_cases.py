"""Images, masks and videos of the shared cases give what their table expects."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d2kit.commands import run_command
from d2kit.config_files import compose_config
from istd import add_istd_config
from istd.checkpoints import load_network
from istd.commands import detect
from istd.data.check import check_before_training
from istd.data.datasets import load_sirst
from istd.data.images import read_infrared, read_mask
from istd.data.points import points_from_mask
from istd.deploy import ISTDPredictor
from istd.deploy.runners import run_network
from istd.pseudo_masks.initialize import initialize_mask

SPLITS = ("train", "val", "test")
VALUES = ("mask_stray_1", "mask_blob_127", "mask_in_alpha", "masks_suffix_mask")


@pytest.fixture(scope="module")
def cases(shared, tmp_path_factory) -> tuple[Path, dict]:
    """The folder of the cases and the table of what they expect."""
    script = shared / "cases" / "make_istd_cases.py"
    if not script.is_file():
        pytest.skip(f"{script} does not exist.")
    folder = tmp_path_factory.mktemp("cases") / "istd"
    subprocess.run([sys.executable, os.fspath(script), os.fspath(folder)], check=True, capture_output=True)
    return folder, json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def predictor(shared) -> ISTDPredictor:
    """A published network."""
    return ISTDPredictor(runner=run_network(*load_network(shared / "data/lesps_checkpoints/ALCNet_full.pth.tar")))


def records_of(folder: Path) -> list[dict]:
    return [record for split in SPLITS for record in load_sirst(folder, split)]


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return np.logical_and(first, second).sum() / np.logical_or(first, second).sum()


def assert_found(answer: dict, points: list) -> None:
    """Each point has one detection within 1.5 pixels, and there are no others."""
    centroids = np.array([found.centroid for found in answer["detections"]])
    assert centroids.shape == (len(points), 2)
    for point in points:
        assert np.hypot(*(centroids - point).T).min() <= 1.5


@pytest.mark.parametrize("name", VALUES)
def test_masks_have_their_targets(cases, name):
    folder, table = cases
    records = records_of(folder / name)
    assert len(records) == sum(table[name]["numbers"]["images"].values())
    for record in records:
        mask = read_mask(record["mask_file"])
        assert np.array_equal(mask, read_mask(folder / name / "truth" / f"{record['image_id']}.png"))
        assert len(points_from_mask(mask)) == table[name]["numbers"]["targets_of_each_image"]
    for image, pixels in table[name]["numbers"].get("mask_pixels", {}).items():
        (record,) = (record for record in records if record["image_id"] == image)
        assert read_mask(record["mask_file"]).sum() == pixels


@pytest.mark.parametrize("name", ["bad_pixels", "tiff_nan"])
def test_bad_pixels_change_neither_first_masks_nor_detections(cases, predictor, name):
    folder, table = cases
    numbers = table[name]["numbers"]
    for record in load_sirst(folder / name, "train"):
        first, has_region = initialize_mask(read_infrared(record["file_name"]), record["points"])
        assert has_region.all()
        if name == "bad_pixels":
            clean = read_infrared(folder / name / "clean" / Path(record["file_name"]).name)
            wanted = numbers["IoU_of_first_masks_with_those_of_clean"]
            assert iou(first, initialize_mask(clean, record["points"])[0]) >= wanted
        else:
            assert iou(first, read_mask(record["mask_file"])) >= numbers["IoU_of_first_masks_with_truth"]
    for record in records_of(folder / name):
        gray = read_infrared(record["file_name"])
        assert_found(predictor(gray), record["points"])


@pytest.mark.parametrize("name", ["predictor_float01", "predictor_counts16", "predictor_1hw"])
def test_the_predictor_takes_arrays_of_any_scale(cases, predictor, name):
    folder, table = cases
    for path in sorted((folder / name).glob("*.npy")):
        assert_found(predictor(np.load(path)), table[name]["numbers"]["at_xy"])


@pytest.mark.parametrize("name, inputs", [("tiff_multipage", "in"), ("video_short", "in"), ("bad_pixels", "images")])
def test_detection(cases, predictor, name, inputs, tmp_path, monkeypatch):
    folder, table = cases
    numbers = table[name]["numbers"]
    monkeypatch.setattr(detect, "build_predictor", lambda _: predictor)
    arguments = [os.fspath(folder / name / inputs), "--model", "x", "--output", os.fspath(tmp_path)]
    assert run_command(detect, arguments) == 0
    images = json.loads((tmp_path / "detections.json").read_text())["images"]
    assert len(images) == numbers.get("frames", sum(numbers.get("images", {}).values()))
    for record in images:
        assert len(record["detections"]) == 2
        if "at_xy" in numbers:
            found = np.sort([one["centroid"] for one in record["detections"]], axis=0)
            assert np.abs(found - np.sort(numbers["at_xy"][record["frame"]], axis=0)).max() <= 1.5


@pytest.mark.parametrize(
    "name, key", [("masks_inverted", "TRAIN"), ("masks_inverted", "TEST"), ("mask_jpeg_01", "TEST")]
)
def test_a_training_does_not_start(cases, name, key, tmp_path):
    folder = cases[0]
    cfg = compose_config(["istd/networks/acm.yaml", "istd/schemes/full.yaml"], [], [add_istd_config])
    cfg.DATASETS.TRAIN = (f"sirst:{folder / 'mask_stray_1'}:train.txt",)
    cfg.DATASETS.VALIDATION, cfg.DATASETS.TEST = (), ()
    cfg.DATASETS[key] = (f"sirst:{folder / name}:test.txt",)
    cfg.OUTPUT_DIR = os.fspath(tmp_path)
    with pytest.raises(ValueError, match=rf"{name}/masks/scene_0\d"):
        check_before_training(cfg)
