"""The pseudo-masks of a run: start, evolution, mining, several processes, checkpoints."""

import json

import numpy as np
import pytest
import torch

from istd.data.images import read_infrared
from istd.engine.data import load_datasets
from istd.engine.labels import PseudoLabels, first_mask
from istd.pseudo_masks.evolve import evolve_mask
from istd.pseudo_masks.regions import grow_mask, window_noise


@pytest.fixture
def records(scenes):
    return load_datasets([scenes.train], "DATASETS.TRAIN")


@pytest.fixture
def make(istd_cfg, records, tmp_path):
    def labels(name="quick_pal", train=None, validation=(), **more):
        cfg = istd_cfg(name, OUTPUT_DIR=str(tmp_path), **more)
        return PseudoLabels(cfg, records if train is None else train, validation)

    return labels


def flat(record):
    return np.full((record["height"], record["width"]), 0.2, np.float32)


def at_points(record):
    probability = np.zeros((record["height"], record["width"]), np.float32)
    for x, y in record["points"]:
        probability[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = 0.9
    return probability


def test_start_from_points_holds_the_points_alone(make, records):
    labels = make("quick_lesps")
    labels.start()
    assert labels.pool() == list(range(len(records)))
    for record in records:
        mask = labels.masks[record["image_id"]]
        assert mask.sum() == len(record["points"])
        assert all(mask[y, x] == 1 for x, y in record["points"])


def test_first_mask_of_an_image_without_points():
    for start in ("points", "contours", "regions"):
        mask, found = first_mask(np.zeros((8, 8), np.float32), [], start)
        assert mask.sum() == 0 and found.shape == (0,)


def test_start_from_regions_grows_all_images_by_one_noise(make, records):
    labels = make("quick_regions")
    labels.start()
    assert labels.pool() == list(range(len(records)))
    images = [read_infrared(record["file_name"]) for record in records]
    points = [record["points"] for record in records]
    noise = np.median(np.concatenate([window_noise(*pair) for pair in zip(images, points, strict=True)]))
    for record, image in zip(records, images, strict=True):
        expected, _ = grow_mask(image, record["points"], noise=noise)
        assert np.array_equal(labels.masks[record["image_id"]], expected)
    assert labels.quality()["labels/iou_true"] > 30


def test_calibration_fits_the_gain_to_true_masks(make, records):
    qualities = []
    for options in ({"GAIN": 0.1}, {"GAIN": 0.1, "CALIBRATE": 6}):
        labels = make("quick_regions", **{f"ISTD__LABELS__{key}": value for key, value in options.items()})
        labels.start()
        qualities.append(labels.quality()["labels/iou_true"])
    assert qualities[1] > qualities[0] + 1


def test_calibration_without_enough_masks_or_without_regions_is_an_error(make, records):
    with pytest.raises(ValueError, match="CALIBRATE is 7, but only 6 training images with points have a mask"):
        make("quick_regions", ISTD__LABELS__CALIBRATE=7).start()
    with pytest.raises(ValueError, match="CALIBRATE needs ISTD.LABELS.START regions"):
        make("quick_pal", ISTD__LABELS__CALIBRATE=2)


def test_regions_name_the_file_of_a_point_outside(make, records):
    train = [{**records[0], "points": [[999, 0]]}]
    with pytest.raises(ValueError, match=f"{records[0]['image_id']}.*point \\(999, 0\\) is outside"):
        make("quick_regions", train=train).start()


def test_easy_images_train_first_and_validation_images_are_all_in(make, records):
    labels = make(train=records[:4], validation=records[4:])
    labels.start()
    assert {record["image_id"] for record in records[4:]} <= labels.masks.pool
    assert 0 < len(labels.pool()) <= 4


def test_no_easy_image_is_an_error_that_names_the_keys(make, monkeypatch):
    monkeypatch.setattr("istd.engine.labels.is_easy", lambda found, share: False)
    with pytest.raises(ValueError, match="ISTD.LABELS.EASY_SHARE"):
        make().start()


def test_evolution_of_the_pool(make, records):
    labels = make(ISTD__EVOLUTION__START=0.2, ISTD__EVOLUTION__DECAY=0.7)
    labels.start()
    record = records[labels.pool()[0]]
    before = labels.masks[record["image_id"]]
    labels.update(at_points, epoch=3, epochs=10)
    assert (labels.masks.version, labels.masks.epoch) == (1, 3)
    wanted = evolve_mask(before, at_points(record), points=record["points"], decay=0.7)
    assert np.array_equal(labels.masks[record["image_id"]], wanted)


def test_mining_brings_images_in_only_until_its_end(make, records):
    labels = make(ISTD__EVOLUTION__START=0.2)
    labels.start()
    waiting = set(labels.masks) - labels.masks.pool
    assert waiting, "the scenes need an image that is not easy"
    labels.update(at_points, epoch=9, epochs=10)
    assert set(labels.masks) - labels.masks.pool == waiting
    labels.update(flat, epoch=4, epochs=10)
    assert set(labels.masks) - labels.masks.pool == waiting  # every point is missed, and a half may be
    report = labels.update(at_points, epoch=4, epochs=10)
    assert report["entered"] == len(waiting) and len(labels.pool()) == len(records)


def test_a_waiting_image_is_left_alone_without_mining(make):
    labels = make(ISTD__MINING__ENABLED=False, ISTD__EVOLUTION__START=0.2)
    labels.start()
    before = set(labels.masks.pool)
    labels.update(at_points, epoch=4, epochs=10)
    assert labels.masks.pool == before != set(labels.masks)


def test_a_checkpoint_goes_back_to_its_masks(make):
    labels = make(ISTD__EVOLUTION__START=0.2)
    labels.start()
    state, first = labels.masks.state_dict(), dict(labels.masks.items())
    labels.update(at_points, epoch=3, epochs=10)
    assert any(not np.array_equal(labels.masks[name], mask) for name, mask in first.items())
    labels.load_state_dict(state)
    assert labels.masks.version == 0
    assert all(np.array_equal(labels.masks[name], mask) for name, mask in first.items())


def test_a_checkpoint_of_other_images_is_refused(make, records):
    labels = make(train=records[:4], ISTD__LABELS__POOL="all")
    labels.start()
    with pytest.raises(ValueError, match="has no pseudo-mask in the checkpoint"):
        make().load_state_dict(labels.masks.state_dict())
    with pytest.raises(ValueError, match="holds no pseudo-masks: name it in MODEL.WEIGHTS"):
        make().load_state_dict({"version": 3})


def test_an_id_twice_is_named(make, records):
    with pytest.raises(ValueError, match=f"'{records[0]['image_id']}' occurs twice"):
        make(validation=records[:1]).start()


ONE_OF_TWO = """
import json, sys, numpy, torch
from detectron2.config import get_cfg
from istd import add_istd_config
from istd.engine.labels import PseudoLabels

folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
cfg = get_cfg()
add_istd_config(cfg)
cfg.merge_from_file(f"{folder}/config.yaml")
with open(f"{folder}/records.json") as file:
    labels = PseudoLabels(cfg, json.load(file))
labels.start()
labels.update(lambda record: numpy.load(f"{folder}/{record['image_id']}.npy"), epoch=100, epochs=300)
torch.save(labels.masks.state_dict(), f"{folder}/{rank}.pth")
"""


def test_two_processes_hold_the_same_masks_as_one(istd_cfg, records, run_python, tmp_path):
    more = {"OUTPUT_DIR": str(tmp_path), "ISTD__EVOLUTION__START": 0.2}
    (tmp_path / "config.yaml").write_text(istd_cfg("quick_pal", **more).dump())
    (tmp_path / "records.json").write_text(json.dumps(records))
    for record in records:
        np.save(tmp_path / f"{record['image_id']}.npy", at_points(record))
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    running = [run_python("-c", ONE_OF_TWO, tmp_path, rank, log=log, wait=False) for rank, log in enumerate(logs)]
    whole = PseudoLabels(istd_cfg("quick_pal", **{**more, "OUTPUT_DIR": str(tmp_path / "whole")}), records)
    whole.start()
    waiting = set(whole.masks) - whole.masks.pool
    whole.update(at_points, epoch=100, epochs=300)
    assert waiting and whole.masks.pool == set(whole.masks)
    for rank, (process, log) in enumerate(zip(running, logs, strict=True)):
        assert process.wait(timeout=120) == 0, log.read_text(encoding="utf-8")[-3000:]
        state = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for key, value in whole.masks.state_dict().items():
            assert torch.equal(state[key], value) if isinstance(value, torch.Tensor) else state[key] == value, key


def test_an_image_without_points_is_named(make, records):
    record = {key: value for key, value in records[0].items() if key != "points"}
    with pytest.raises(ValueError, match=f"{record['image_id']}.*has no points"):
        make(train=[record])


def test_quality_against_the_true_masks(make, records):
    labels = make()
    labels.start()
    assert 0 < labels.quality()["labels/iou_true"] <= 100
    bare = make(train=[{k: v for k, v in record.items() if k != "mask_file"} for record in records])
    bare.start()
    assert bare.quality() == {}
