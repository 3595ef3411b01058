"""Overlays and reliability diagrams appear when they should, and only where they are written."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from s4m.engine.quality import PseudoLabelOverlay, PseudoLabelQualityHook, draw_pseudo_labels
from s4m.evaluation.reliability import expected_calibration_error, read_reliability
from s4m.pseudo_labels.record import ImageRecord, PseudoLabelRecord


def record(count, size=(20, 30)):
    """Of an image that is blue in BGR, with `count` masks, SAM's being empty."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[0] = 200
    masks = torch.zeros(count, *size, dtype=torch.bool)
    masks[:, 2:9, 3:12] = True
    flags = torch.ones(count, dtype=torch.bool)
    scores, classes = torch.ones(count), torch.zeros(count, dtype=torch.int64)
    return ImageRecord("a.png", image, count, masks, torch.zeros_like(masks), scores, classes, scores, flags, True)


@pytest.mark.parametrize(("image_format", "channel"), [("BGR", 2), ("RGB", 0)])
def test_overlay_is_rgb_with_the_teacher_at_the_left(image_format, channel):
    state = np.random.get_state()[1].copy()
    picture = draw_pseudo_labels(record(1, (60, 90)), ["disc"], image_format)
    assert picture.shape == (3, 60, 180) and picture.dtype == np.uint8
    assert (np.random.get_state()[1] == state).all()
    left, right = picture[:, :, :90], picture[:, :, 90:]
    plain = np.zeros((3, 60, 90), np.uint8)
    plain[channel] = 200
    assert (right == plain).all()
    changed = (left != plain).any(axis=0)
    assert changed[3:8, 4:11].all() and not changed[40:].any()


@pytest.mark.parametrize("count", [0, 300])
def test_overlay_of_none_and_many_without_class_names(count):
    picture = draw_pseudo_labels(record(count), [], "RGB")
    assert picture.shape == (3, 20, 60)
    assert (picture[:, :, :30] != picture[:, :, 30:]).any() == (count > 0)


def pictures(cfg, records, iterations=6):
    model = SimpleNamespace(last_record=records)
    hook = PseudoLabelOverlay(cfg, model)
    with EventStorage() as storage:
        for iteration in range(iterations):
            hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
            storage.iter = iteration
            hook.after_step()
        return [step for _, _, step in storage._vis_data]


def test_overlay_every_period_of_an_image_that_has_pseudo_labels(small_cfg, monkeypatch):
    cfg = small_cfg(S4M__LOG_PERIOD=2)
    some = PseudoLabelRecord([record(0), record(2)])
    assert pictures(cfg, some) == [0, 2, 4]
    assert pictures(cfg, PseudoLabelRecord([record(0)])) == [] == pictures(cfg, None)
    assert pictures(small_cfg(S4M__LOG_PERIOD=0), some) == []
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert pictures(cfg, some) == []


@pytest.mark.parametrize("calibrated", [False, True])
def test_reliability_is_logged_with_calibration(small_cfg, calibrated):
    cfg = small_cfg(S4M__CALIBRATION__ENABLED=calibrated, S4M__PR__ENABLED=False)
    model = build_model(cfg).eval()
    with EventStorage() as storage:
        hook = PseudoLabelQualityHook(cfg, model)
        hook.trainer = SimpleNamespace(iter=0, storage=storage)
        figures = hook.measure()
        names = {name for name, _, _ in storage._vis_data}
        logged = storage.latest()
    errors = {key: value for key, value in figures.items() if "/ece/" in key}
    expected = ["class_score", "calibrated_confidence"] if calibrated else []
    assert list(errors) == [f"pseudo_label_quality/ece/{name}" for name in expected]
    assert all(0 <= value <= 1 and logged[key][0] == value for key, value in errors.items())
    assert ("reliability of pseudo-labels of test images" in names) == calibrated
    bins = {name: value for name, (value, _) in logged.items()}
    assert {name: expected_calibration_error(rows) for name, rows in read_reliability(bins).items()} == {
        name.replace("_", " "): errors[f"pseudo_label_quality/ece/{name}"] for name in expected
    }
