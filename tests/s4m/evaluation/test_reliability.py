"""Expected calibration error by hand, and its diagram."""

import pytest
import torch
from detectron2.structures import BitMasks, Instances

from s4m.evaluation.pseudo_label_quality import PseudoLabelQuality
from s4m.evaluation.reliability import Reliability, draw_reliability, expected_calibration_error
from s4m.pseudo_labels.record import ImageRecord


def test_ece_by_hand():
    reliability = Reliability()
    iou = torch.tensor([0.8, 0.6, 0.0, 1.0])
    reliability.update({"a": torch.tensor([0.92, 0.98, 0.3, 1.0]), "b": iou}, iou)
    reliability.update({"a": torch.tensor([0.95]), "b": torch.tensor([0.5])}, torch.tensor([0.5]))
    sums = reliability.gather()
    # One bin holds 0.92, 0.98, 1.0 and 0.95, whose sum is 3.85, over an IoU of 2.9; the other one 0.3 over 0.
    assert expected_calibration_error(sums["a"]) == pytest.approx((3.85 - 2.9 + 0.3) / 5)
    assert expected_calibration_error(sums["b"]) == pytest.approx(0, abs=1e-7)
    assert sums["a"][:, 0].sum() == 5 and sums["a"][3, 0] == 1


@pytest.mark.parametrize("count", [0, 300])
def test_any_number_of_labels_makes_a_diagram(count):
    reliability = Reliability()
    values = torch.linspace(0, 1, count)
    reliability.update({"score": values, "confidence": values.square()}, values.square())
    sums = reliability.gather()
    assert expected_calibration_error(sums["confidence"]) == pytest.approx(0, abs=1e-6)
    picture = draw_reliability(sums)
    assert picture.shape == (320, 640, 3) and picture.std() > 10


def test_nothing_seen_makes_an_empty_diagram():
    assert Reliability().gather() == {} and draw_reliability({}).shape[2] == 3


def test_quality_fills_it_and_leaves_ignored_labels_out_of_its_own_figures():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, :4], masks[2, 4:] = True, True
    record = ImageRecord(
        "",
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        candidates=3,
        teacher_masks=masks,
        masks=masks,
        scores=torch.tensor([0.95, 0.85, 0.75]),
        classes=torch.tensor([0, 1, 0]),
        quality=torch.zeros(3),
        accepted=torch.tensor([True, True, False]),
        prompted=True,
        confidence=torch.tensor([0.95, 0.1, 0.5]),
        ignored=torch.tensor([False, True, False]),
    )
    truth = Instances((8, 8), gt_classes=torch.tensor([0]), gt_masks=BitMasks(masks[:1]))
    reliability = Reliability()
    quality = PseudoLabelQuality(["cat", "dog"], reliability=reliability)
    quality.add(record, truth)
    figures = quality.compute()
    assert (figures["labels"], figures["refined"], figures["rejected"]) == (2, 1, 1)
    assert figures["after/precision"] == 0.5 and figures["after/iou"] == pytest.approx(0.75)
    sums = reliability.gather()
    assert expected_calibration_error(sums["class score"]) == pytest.approx((0.05 + 0.85 + 0.25) / 3, rel=1e-5)
    assert expected_calibration_error(sums["calibrated confidence"]) == pytest.approx((0.05 + 0.1 + 0) / 3, rel=1e-5)
