"""The pseudo-masks of a run: start, evolution, mining, rewinding."""

import numpy as np
import pytest

from istd.engine.data import load_datasets
from istd.engine.labels import PseudoLabels, first_mask, propose
from istd.pseudo_masks.evolve import evolve_mask


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
    labels.start(fresh=True)
    assert labels.pool() == list(range(len(records)))
    for record in records:
        mask = labels.store.mask(record["image_id"])
        assert mask.sum() == len(record["points"])
        assert all(mask[y, x] == 1 for x, y in record["points"])


def test_first_mask_of_an_image_without_points():
    for start in ("points", "contours"):
        mask, found = first_mask(np.zeros((8, 8), np.float32), [], start)
        assert mask.sum() == 0 and found.shape == (0,)


def test_easy_images_train_first_and_validation_images_are_all_in(make, records):
    labels = make(train=records[:4], validation=records[4:])
    labels.start(fresh=True)
    assert {record["image_id"] for record in records[4:]} <= labels.store.pool
    assert 0 < len(labels.pool()) <= 4


def test_no_easy_image_is_an_error_that_names_the_keys(make, monkeypatch):
    monkeypatch.setattr("istd.engine.labels.is_easy", lambda found, share: False)
    with pytest.raises(ValueError, match="ISTD.LABELS.EASY_SHARE"):
        make().start(fresh=True)


def test_evolution_of_the_pool(make, records):
    labels = make(ISTD__EVOLUTION__START=0.2, ISTD__EVOLUTION__DECAY=0.7)
    labels.start(fresh=True)
    record = records[labels.pool()[0]]
    before = labels.store.mask(record["image_id"])
    report = labels.update(at_points, epoch=3, epochs=10)
    assert (report["version"], report["epoch"]) == (1, 3)
    wanted = evolve_mask(before, at_points(record), points=record["points"], decay=0.7)
    assert np.array_equal(labels.store.mask(record["image_id"]), wanted)


def test_mining_brings_images_in_only_until_its_end(make, records):
    labels = make(ISTD__EVOLUTION__START=0.2)
    labels.start(fresh=True)
    waiting = labels.store.waiting
    assert waiting, "the scenes need an image that is not easy"
    labels.update(at_points, epoch=9, epochs=10)
    assert labels.store.waiting == waiting
    labels.update(flat, epoch=4, epochs=10)
    assert labels.store.waiting == waiting  # every point is missed, and a half may be
    report = labels.update(at_points, epoch=4, epochs=10)
    assert report["entered"] == sorted(waiting) and len(labels.pool()) == len(records)


def test_a_waiting_image_is_left_alone_without_mining(make, records):
    labels = make(ISTD__MINING__ENABLED=False)
    record = records[0]
    assert propose(labels._cfg, record, flat(record), False, at_points(record), None) is None


def test_state_rewinds_the_store(make):
    labels = make(ISTD__EVOLUTION__START=0.2)
    labels.start(fresh=True)
    state, first = labels.state_dict(), labels.store.mask(labels.store.image_ids[0])
    labels.update(at_points, epoch=3, epochs=10)
    labels.load_state_dict(state)
    assert labels.store.version == 0
    assert np.array_equal(labels.store.mask(labels.store.image_ids[0]), first)


def test_a_new_run_begins_anew_and_a_resumed_one_continues(make):
    labels = make()
    labels.start(fresh=True)
    labels.update(at_points, epoch=3, epochs=10)
    again = make()
    again.start(fresh=False)
    assert again.store.version == 1
    again.start(fresh=True)
    assert again.store.version == 0


def test_an_image_without_points_is_named(make, records):
    record = {key: value for key, value in records[0].items() if key != "points"}
    with pytest.raises(ValueError, match=f"{record['image_id']}.*has no points"):
        make(train=[record])


def test_wrong_choices_name_the_key(make):
    with pytest.raises(ValueError, match="ISTD.LABELS.POOL"):
        make(ISTD__LABELS__POOL="some")
    with pytest.raises(ValueError, match="ISTD.EVOLUTION.FIXED"):
        make(ISTD__EVOLUTION__FIXED="none")


def test_quality_against_the_true_masks(make):
    labels = make()
    labels.start(fresh=True)
    assert 0 < labels.quality()["labels/iou_true"] <= 100
    bare = [{k: v for k, v in record.items() if k != "mask_file"} for record in labels._train]
    labels._train = bare
    assert labels.quality() == {}
