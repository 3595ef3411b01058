"""IRMetrics against the plain reference, its conventions, and the published networks on real images."""

import json
import math

import numpy as np
import pytest
from skimage import measure

from istd.evaluation import IRMetrics, score_image

# The metrics the plain way: one regionprops pass a metric, loops, no shared work.


def plain_regions(mask: np.ndarray) -> list:
    return measure.regionprops(measure.label(mask, connectivity=2))


def plain_matches(targets: list, predictions: list, distance: float = 3.0) -> list[int]:
    used, result = set(), []
    for target in targets:
        chosen = -1
        for index, prediction in enumerate(predictions):
            gap = np.linalg.norm(np.array(target.centroid) - np.array(prediction.centroid))
            if index not in used and gap < distance:
                used.add(index)
                chosen = index
                break
        result.append(chosen)
    return result


def plain_iou(predictions: list[np.ndarray], targets: list[np.ndarray]) -> float:
    both = sum((p & t).sum() for p, t in zip(predictions, targets, strict=True))
    either = sum((p | t).sum() for p, t in zip(predictions, targets, strict=True))
    return 100 * both / either if either else 0.0


def plain_niou(predictions: list[np.ndarray], targets: list[np.ndarray]) -> float:
    return float(np.mean([plain_iou([p], [t]) for p, t in zip(predictions, targets, strict=True)]))


def plain_pd(predictions: list[np.ndarray], targets: list[np.ndarray]) -> float:
    found = total = 0
    for p, t in zip(predictions, targets, strict=True):
        chosen = plain_matches(plain_regions(t), plain_regions(p))
        found, total = found + sum(index >= 0 for index in chosen), total + len(chosen)
    return 100 * found / total


def plain_fa(predictions: list[np.ndarray], targets: list[np.ndarray]) -> float:
    false = pixels = 0
    for p, t in zip(predictions, targets, strict=True):
        found = plain_regions(p)
        chosen = set(plain_matches(plain_regions(t), found))
        false += sum(region.area for index, region in enumerate(found) if index not in chosen)
        pixels += p.size
    return 1e6 * false / pixels


def plain_auc(probabilities: list[np.ndarray], targets: list[np.ndarray], bins: int) -> float:
    """Area under the curve through (0, 0), the points of thresholds j / bins and (1, 1)."""
    p, t = (np.concatenate([m.ravel() for m in maps]) for maps in (probabilities, targets))
    points = [(1.0, 1.0)]
    for j in range(bins):
        above = p > j / bins
        points.append((above[~t].mean(), above[t].mean()))
    points.append((0.0, 0.0))
    return sum((x0 - x1) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False))


def scene(rng: np.random.Generator, shape=(40, 56), targets=6, noise=0.02) -> tuple[np.ndarray, np.ndarray]:
    """Targets of 1 to 4 pixels a side and a prediction that shifts, drops and adds some; many areas are equal."""
    target, probability = np.zeros(shape, bool), rng.random(shape).astype(np.float32) * 0.5
    for _ in range(targets):
        h, w = rng.integers(1, 5, 2)
        y, x = rng.integers(0, shape[0] - 4), rng.integers(0, shape[1] - 4)
        target[y : y + h, x : x + w] = True
        if rng.random() < 0.8:
            dy, dx = rng.integers(-3, 4, 2)
            probability[max(0, y + dy) : max(0, y + dy + h), max(0, x + dx) : max(0, x + dx + w)] = 0.9
    probability[rng.random(shape) < noise] = 0.75
    return probability, target


def scenes(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    drawn = [
        scene(rng, targets=int(n), noise=float(f))
        for n, f in zip(rng.integers(0, 25, 6), rng.random(6) * 0.1, strict=True)
    ]
    empty, full = np.zeros((9, 7), bool), np.ones((9, 7), bool)
    return [*drawn, (empty.astype(np.float32), full), (full.astype(np.float32), empty), scene(rng, targets=400)]


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_reference(seed):
    pairs = scenes(seed)
    metrics = IRMetrics(roc_bins=16)
    for probability, target in pairs:
        metrics.update(probability, target)
    got = metrics.compute()
    probabilities, targets = zip(*pairs, strict=True)
    predictions = [p > 0.5 for p in probabilities]
    assert got["IoU"] == pytest.approx(plain_iou(predictions, targets), abs=1e-12)
    assert got["nIoU"] == pytest.approx(plain_niou(predictions, targets), abs=1e-12)
    assert got["Pd"] == plain_pd(predictions, targets)
    assert got["Fa"] == plain_fa(predictions, targets)
    assert got["AUC"] == pytest.approx(plain_auc(probabilities, targets, 16), abs=1e-12)


def test_one_image_by_hand():
    target, probability = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.float32)
    target[0:2, 0:2], target[8, 8] = 255, 255
    probability[0:2, 1:3] = 0.6  # one pixel beside the first target
    probability[4, 4], probability[5, 5] = 0.9, 0.7  # one 8-connected region, far from all
    probability[8, 8] = 0.5  # not above the threshold
    score = score_image(probability, target)
    assert (score.intersection, score.union) == (2, 9)
    assert (score.targets, score.found, score.regions, score.false_pixels, score.pixels) == (2, 1, 2, 2, 100)
    metrics = IRMetrics()
    metrics.update(probability, target)
    result = metrics.compute()
    assert result["IoU"] == result["nIoU"] == pytest.approx(100 * 2 / 9)
    assert result["Pd"] == 50 and result["Fa"] == pytest.approx(2e4)


def test_distance_is_exclusive_and_matching_is_greedy_in_label_order():
    def image(*cells):
        mask = np.zeros((12, 30))
        for y, x in cells:
            mask[y, x] = 1
        return mask

    assert score_image(image((5, 8)), image((5, 5))).found == 0  # exactly 3 pixels
    assert score_image(image((5, 7)), image((5, 5))).found == 1
    # The first target takes the first region in reach, though the second target has no other.
    assert score_image(image((5, 6), (5, 2)), image((4, 4), (6, 8))).found == 2
    assert score_image(image((3, 6), (5, 2)), image((4, 4), (5, 7))).found == 1
    # One region serves one target.
    assert score_image(image((5, 5)), image((5, 3), (5, 7))).found == 1


def test_regions_of_equal_area_do_not_hide_false_alarms():
    target, probability = np.zeros((20, 20)), np.zeros((20, 20))
    target[5, 5] = probability[5, 5] = probability[15, 15] = 1
    assert score_image(probability, target).false_pixels == 1


@pytest.mark.parametrize(("empty", "niou", "iou"), [("zero", 50, 0), ("one", 100, 100), ("skip", 100, math.nan)])
def test_images_without_anything(empty, niou, iou):
    nothing, something = np.zeros((4, 4)), np.eye(4)
    metrics = IRMetrics(empty=empty)
    metrics.update(nothing, nothing)
    assert metrics.compute()["IoU"] == pytest.approx(iou, nan_ok=True)
    assert metrics.compute()["nIoU"] == pytest.approx(iou, nan_ok=True)
    assert math.isnan(metrics.compute()["Pd"]) and metrics.compute()["Fa"] == 0 and math.isnan(metrics.compute()["AUC"])
    metrics.update(something, something)
    result = metrics.compute()
    assert (result["IoU"], result["nIoU"], result["Pd"], result["Fa"], result["AUC"]) == (100, niou, 100, 0, 1)


def test_false_alarm_on_an_empty_image_counts_zero_whatever_the_option():
    for empty in ("zero", "one", "skip"):
        metrics = IRMetrics(empty=empty)
        metrics.update(np.eye(4), np.zeros((4, 4)))
        assert metrics.compute()["nIoU"] == 0 and metrics.compute()["Fa"] == 1e6 * 4 / 16


def test_no_image_at_all():
    result = IRMetrics().compute()
    assert all(math.isnan(result[key]) for key in ("IoU", "nIoU", "Pd", "Fa", "AUC"))


def test_roc():
    metrics = IRMetrics(roc_bins=4)
    metrics.update(np.array([[0.0, 0.25, 0.3, 1.0]]), np.array([[0, 1, 0, 1]]))
    roc = metrics.compute()["ROC"]
    assert roc["threshold"] == [-math.inf, 0, 0.25, 0.5, 0.75, 1]
    assert roc["tpr"] == [1, 1, 0.5, 0.5, 0.5, 0] and roc["fpr"] == [1, 0.5, 0.5, 0, 0, 0]
    assert "ROC" not in IRMetrics(roc_bins=0).compute()
    json.dumps(roc["tpr"])


def test_merging_does_not_depend_on_the_division():
    pairs = scenes(3)
    whole, parts = IRMetrics(), [IRMetrics() for _ in range(3)]
    for index, (probability, target) in enumerate(pairs):
        whole.update(probability, target)
        parts[index % 3].update(probability, target)
    merged = IRMetrics().merge(parts[::-1])
    assert merged.compute() == whole.compute() and len(parts[0].scores) == 3
    whole.reset()
    assert not whole.scores and not whole.histogram.any()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_types_of_targets(dtype):
    target = np.eye(5).astype(dtype)
    assert score_image(np.eye(5, dtype=np.float16), target).intersection == 5
    if dtype == np.uint8:
        assert score_image(np.eye(5), target * 255).intersection == 5
    assert score_image(np.eye(5) > 0, target).found == 1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"size \(4, 4\), the target mask \(4, 5\)"):
        score_image(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="apply a sigmoid"):
        score_image(np.full((4, 4), -3.0), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="apply a sigmoid"):
        score_image(np.full((4, 4), np.nan), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="shape"):
        score_image(np.zeros((1, 4, 4)), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="empty='none'"):
        IRMetrics(empty="none")
    metrics = IRMetrics()
    with pytest.raises(ValueError):
        metrics.update(np.zeros((4, 4)), np.zeros((4, 5)))
    assert not metrics.scores and not metrics.histogram.any()
