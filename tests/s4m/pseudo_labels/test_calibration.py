"""Thresholds and confidence against sums by hand; warm-up, starved classes, ignored regions, state."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import BitMasks, Boxes, Instances

from s4m.config import add_s4m_config
from s4m.evaluation.reliability import Reliability, expected_calibration_error
from s4m.pseudo_labels.calibration import (
    ConfidenceCalibration,
    confidence_features,
    fit_logistic,
    quantile_of_histogram,
)
from s4m.pseudo_labels.masks import class_iou
from s4m.pseudo_labels.pipeline import PseudoLabeler


def scored(scores, classes=None):
    """Predictions that have a score and a class alone."""
    classes = torch.zeros(len(scores), dtype=torch.int64) if classes is None else torch.tensor(classes)
    return Instances((8, 8), scores=torch.tensor(scores, dtype=torch.float32), pred_classes=classes)


def draw_samples(count, weights, seed=0):
    """Features of random pseudo-labels, and an IoU that is the map of these weights."""
    generator = torch.Generator().manual_seed(seed)
    score, quality, agreement = torch.rand(3, count, generator=generator)
    features = confidence_features(score, quality, agreement, torch.rand(count, generator=generator) > 0.3)
    return features, (features @ torch.tensor(weights, dtype=torch.float64)).sigmoid()


def test_defaults_are_the_config_files():
    cfg = get_cfg()
    add_s4m_config(cfg)
    default, configured = ConfidenceCalibration(num_classes=80), ConfidenceCalibration(cfg)
    names = ("score", "low", "bounds", "quantile", "decay", "warmup", "period", "floor")
    assert all(getattr(default, name) == getattr(configured, name) for name in names)
    assert all(torch.equal(a, b) for a, b in zip(default.buffers(), configured.buffers(), strict=True))
    assert PseudoLabeler(cfg).calibration is None and PseudoLabeler(cfg).min_score == 0.7
    cfg.S4M.CALIBRATION.ENABLED = True
    assert PseudoLabeler(cfg).min_score == 0.3


@pytest.mark.parametrize("wrong", [{"low": 0.6}, {"bounds": (0.9, 0.5)}])
def test_numbers_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(ValueError, match="S4M.CALIBRATION"):
        ConfidenceCalibration(num_classes=2, **wrong)


def test_quantile_of_a_histogram_by_hand():
    histogram = torch.tensor([[0.0, 4, 0, 4], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 5]])
    torch.testing.assert_close(quantile_of_histogram(histogram, 0.25), torch.tensor([0.375, 0, 0.25, 0.8125]))
    torch.testing.assert_close(quantile_of_histogram(histogram, 0.75), torch.tensor([0.875, 0, 0.75, 0.9375]))


def test_thresholds_follow_each_class_after_its_warmup_alone():
    calibration = ConfidenceCalibration(num_classes=4, score=0.7, bounds=(0.4, 0.9), quantile=0.5, warmup=20)
    easy = torch.linspace(0.8, 0.9, 30).tolist()
    hard = torch.linspace(0.42, 0.62, 30).tolist()
    few = [0.5] * 19
    scores = easy + hard + few
    classes = [0] * 30 + [1] * 30 + [2] * 19
    calibration.observe([scored(scores, classes), scored([])])
    thresholds = calibration.thresholds()
    torch.testing.assert_close(thresholds[:2], torch.tensor([0.85, 0.52]), atol=0.02, rtol=0)
    assert thresholds[2:].tolist() == pytest.approx([0.7, 0.7])  # too few, and never seen
    found = calibration.threshold_of(scored([0.1, 0.2], [1, 3]))
    torch.testing.assert_close(found, thresholds[[1, 3]])
    assert calibration.seen.tolist() == [30, 30, 19, 0] and calibration.steps == 1
    calibration.observe([scored([0.99] * 200, [1] * 200)])
    assert calibration.thresholds()[1].item() == pytest.approx(0.9)  # the bound


def test_distribution_is_a_moving_average_of_the_batches_that_saw_the_class():
    calibration = ConfidenceCalibration(num_classes=2, decay=0.75)
    calibration.observe([scored([0.31, 0.31]), scored([0.95])])
    calibration.observe([scored([0.5], [1])])
    calibration.observe([scored([1.0])])
    row = calibration.histogram[0]
    assert row[15].item() == pytest.approx(0.75 * 2) and row[47].item() == pytest.approx(0.75)
    assert row[49] == 1 and row.sum().item() == pytest.approx(3.25) and calibration.histogram[1].sum() == 1


def test_features_by_hand():
    found = confidence_features(
        torch.tensor([0.9, 0.9, 1.0]),
        torch.tensor([0.8, 0.8, 2.0]),
        torch.tensor([0.5, 0.5, 0.0]),
        torch.tensor([True, False, True]),
    )
    s, q, top = math.log(9), math.log(4), math.log(0.98 / 0.02)
    expected = [[1, 1, s, q - s, -s], [1, 0, s, 0, 0], [1, 1, top, 0, -2 * top]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_fit_finds_the_map_and_is_the_minimum():
    truth = [-0.4, 0.3, 0.8, 0.5, 0.2]
    features, targets = draw_samples(800, truth)
    prior = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(fit_logistic(features, targets, prior, 1e-6).tolist(), truth, atol=1e-4, rtol=0)
    noisy = (torch.rand(800, generator=torch.Generator().manual_seed(3)) < targets).double()
    weights = fit_logistic(features, noisy, prior + 1, 2.0).requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(features @ weights, noisy, reduction="sum")
    (gradient,) = torch.autograd.grad(loss + (weights - 1).square().sum(), weights)
    assert gradient.abs().max() < 1e-8


def test_fit_of_nothing_and_of_one():
    prior = torch.tensor([0.0, 0.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    features, _ = draw_samples(1, prior.tolist())
    assert torch.equal(fit_logistic(features[:0], features[:0, 0], prior, 2.0), prior)
    lower = fit_logistic(features, torch.zeros(1, dtype=torch.float64), prior, 2.0)
    assert (features @ lower).sigmoid() < (features @ prior).sigmoid() and (lower - prior).norm() < 2


def test_fit_converges_from_a_far_prior():
    features, targets = draw_samples(300, [2.0, -1, 3, 2, -2])
    near, far = (
        fit_logistic(features, targets, torch.full((5,), start, dtype=torch.float64), 1e-9) for start in (0.0, 5.0)
    )
    torch.testing.assert_close(near, far, atol=1e-3, rtol=0)


def columns(*widths, size=(10, 40)):
    masks = torch.zeros(len(widths), *size, dtype=torch.bool)
    for index, (mask, width) in enumerate(zip(masks, widths, strict=True)):
        mask[index : index + 1, :width] = True
    return masks


def labeled(scores, classes, masks):
    labels = scored(scores, classes)
    result = Instances(tuple(masks.shape[1:]), **labels.get_fields())
    result.pred_masks = masks
    return result


def truth(masks, classes):
    return Instances(tuple(masks.shape[1:]), gt_classes=torch.tensor(classes), gt_masks=BitMasks(masks))


def test_learning_takes_the_iou_with_the_class_and_forgets_the_oldest():
    calibration = ConfidenceCalibration(num_classes=2, samples=3)
    masks = columns(20, 20, 20)
    found = labeled([0.9, 0.8, 0.6], [0, 0, 1], masks)
    annotated = truth(columns(10, 20, 20), [0, 1, 0])
    calibration.learn([found], [annotated])
    torch.testing.assert_close(calibration.worth, torch.tensor([0.5, 0, 0], dtype=torch.float64))
    empty = labeled([], [], masks[:0])
    calibration.learn([empty, found[:1]], [annotated, truth(masks[:0], [])])
    torch.testing.assert_close(calibration.worth, torch.tensor([0.0, 0, 0], dtype=torch.float64))
    assert calibration.drawn == 4
    calibration.learn([Instances.cat([found, found])], [truth(masks, [0, 0, 1])])
    torch.testing.assert_close(calibration.worth, torch.ones(3, dtype=torch.float64))
    expected = fit_logistic(
        calibration.describe(found),
        torch.ones(3, dtype=torch.float64),
        torch.tensor([0, 0, 1, 1 / 3, 1 / 3]).double(),
        2.0,
    )
    torch.testing.assert_close(calibration.weights, expected)


def test_what_lies_in_void_or_a_crowd_of_its_class_teaches_nothing():
    calibration = ConfidenceCalibration(num_classes=3, samples=8)
    masks = torch.zeros(6, 10, 40, dtype=torch.bool)
    masks[0, 0, :20] = True  # of the object
    masks[1, 2, :10] = masks[1, 4, :11] = True  # 11 of 21 pixels in void
    masks[2, 2, :11] = masks[2, 4, :11] = True  # half of them
    masks[3, 6, :10] = masks[4, 6, :10] = True  # in the crowd, of its class and of another
    masks[5, 0, :20] = masks[5, 4] = True  # two thirds in void, and a third of it the object
    found = labeled([0.9, 0.8, 0.7, 0.6, 0.55, 0.5], [0, 0, 0, 1, 0, 0], masks)
    regions = torch.zeros(2, 10, 40, dtype=torch.bool)
    regions[0, 0, :20] = regions[1, 4] = True
    annotated, crowd = truth(regions, [0, -1]), torch.zeros(1, 10, 40, dtype=torch.bool)
    crowd[0, 6] = True
    calibration.learn([found, found[:0]], [annotated, annotated[:0]], [truth(crowd, [1]), None])
    judged = found[torch.tensor([0, 2, 4])]
    assert calibration.drawn == 3 and calibration.worth[:3].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(calibration.features[:3], calibration.describe(judged))
    weights = calibration.weights.clone()
    calibration.learn([found[1:2]], [annotated])
    assert calibration.drawn == 3 and torch.equal(calibration.weights, weights)
    calibration.learn([found[3:4]], [annotated])  # without its crowd it is wrong
    assert calibration.drawn == 4


def test_confidence_learns_that_scores_promise_too_much():
    calibration = ConfidenceCalibration(num_classes=1)
    scores, masks = torch.linspace(0.5, 0.99, 200), torch.zeros(200, 1, 100, dtype=torch.bool)
    masks[:, :, :50] = True
    found = labeled(scores.tolist(), [0] * 200, masks)
    before = calibration.confidence(found)
    torch.testing.assert_close(before, scores.clamp(max=0.98))
    calibration.learn([found], [truth(masks[:1].roll(25, dims=2), [0])])  # 25 of 75 pixels
    after = calibration.confidence(found)
    assert (after.mean() - 1 / 3).abs() < 0.02 and (after[-1] - after[0]).abs() < 0.2


def test_calibrated_confidence_beats_the_score_on_labels_that_it_did_not_see():
    calibration, reliability = ConfidenceCalibration(num_classes=1), Reliability()
    generator = torch.Generator().manual_seed(0)
    scores = 0.5 + 0.5 * torch.rand(600, generator=generator)
    widths = (100 * (1.6 * scores - 0.8 + 0.2 * torch.rand(600, generator=generator)).clamp(0, 1)).int()
    whole, masks = torch.ones(1, 1, 100, dtype=torch.bool), torch.arange(100)[None, None] < widths[:, None, None]
    found = labeled(scores.tolist(), [0] * 600, masks)
    calibration.learn([found[:300]], [truth(whole, [0])])
    held_out = found[300:]
    confidences = {"raw": held_out.scores, "calibrated": calibration.confidence(held_out)}
    reliability.update(confidences, class_iou(held_out.pred_masks, held_out.pred_classes, truth(whole, [0]))[:, 0])
    error = {name: expected_calibration_error(sums) for name, sums in reliability.gather().items()}
    assert error["raw"] > 0.2 and error["calibrated"] < 0.05


@pytest.mark.parametrize("count", [0, 1, 300])
def test_confidence_of_refined_labels(count):
    calibration = ConfidenceCalibration(num_classes=3)
    masks = torch.rand(count, 6, 7, generator=torch.Generator().manual_seed(0)) > 0.3
    labels = labeled([0.9] * count, [1] * count, masks)
    torch.testing.assert_close(calibration.confidence(labels), labels.scores)
    labels.sam_quality, labels.sam_agreement = torch.full((count,), 0.9), torch.ones(count)
    confidence = calibration.confidence(labels)
    expected = (2 * math.log(9) + math.log(49)) / 3
    torch.testing.assert_close(confidence, torch.full((count,), 1 / (1 + math.exp(-expected))))


def predictions(boxes, scores, classes):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    soft = torch.zeros(len(boxes), 32, 32)
    for mask, (x0, y0, x1, y1) in zip(soft, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 0.9
    found = Instances((32, 32), pred_boxes=Boxes(boxes), soft_masks=soft)
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.int64)
    return found


def make_labeler(**options):
    calibration = ConfidenceCalibration(num_classes=2, score=0.7, low=0.3, floor=0.4, **options)
    return PseudoLabeler(calibration=calibration)


def label(labeler, found):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    targets, record = labeler.label([{"image": image, "seed": 0}], [found])
    return targets[0], record


def test_unsure_regions_are_ignored_and_not_background():
    boxes = [[0, 0, 10, 10], [12, 0, 22, 10], [1, 0, 11, 10], [12, 20, 22, 30], [0, 20, 2, 21]]
    found = predictions(boxes, [0.9, 0.5, 0.6, 0.2, 0.6], [0, 1, 1, 0, 0])
    labeler = make_labeler()
    targets, record = label(labeler, found)
    # The second is doubtful, the third lies on the first, the fourth is too unlikely, the fifth too small.
    assert targets.gt_classes.tolist() == [0, -1]
    assert targets.gt_boxes.tensor.tolist() == [boxes[0], boxes[1]]
    assert targets.gt_weights[0].item() == pytest.approx(0.9)
    assert record.images[0].doubtful == 1 and record.targets == 1
    assert record.scalars("")["ignored"] == 1 and record.scalars("")["confidence"] == pytest.approx(0.9)

    labeler.calibration.weights[0] = -4.0  # now the score of 0.9 means an IoU of 0.14
    targets, record = label(labeler, found)
    assert targets.gt_classes.tolist() == [-1, -1] and record.images[0].ignored.tolist() == [True]
    assert record.targets == 0 and record.images[0].selected == 1 and record.scalars("")["ignored"] == 2


def test_a_class_with_low_scores_gets_pseudo_labels_after_its_warmup():
    labeler = make_labeler(warmup=10, bounds=(0.4, 0.9))
    found = predictions([[0, 0, 10, 10], [12, 0, 22, 10]], [0.62, 0.62], [0, 1])
    assert label(labeler, found)[0].gt_classes.tolist() == [-1, -1]
    labeler.calibration.observe([scored(torch.linspace(0.4, 0.65, 50).tolist(), [1] * 50)])
    assert label(labeler, found)[0].gt_classes.tolist() == [1, -1]


def test_no_prediction_is_no_target():
    targets, record = label(make_labeler(), predictions([], [], []))
    assert len(targets) == 0 and record.scalars("")["confidence"] == 0


def test_state_resumes():
    first, second = (ConfidenceCalibration(num_classes=2, warmup=1) for _ in range(2))
    first.observe([scored([0.5, 0.8], [0, 1])])
    first.learn([labeled([0.9], [0], columns(20))], [truth(columns(10), [0])])
    second.load_state_dict(first.state_dict())
    assert not list(first.parameters())
    for calibration in (first, second):
        calibration.observe([scored([0.6], [1])])
        calibration.learn([labeled([0.7], [1], columns(20))], [truth(columns(20), [1])])
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert first.scalars() == second.scalars()


def test_fits_come_every_period():
    calibration = ConfidenceCalibration(num_classes=1, period=3)
    due = []
    for _ in range(7):
        due.append(calibration.due())
        calibration.observe([scored([0.5])])
    assert due == [True, False, False, True, False, False, True]
