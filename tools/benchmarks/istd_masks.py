"""The ISTD metrics and the evolution of pseudo-masks, against full-image passes for each metric and each region."""

import argparse
import math
from collections.abc import Iterator

import cv2
import numpy as np
from skimage import measure

from benchmarks.harness import Case, Comparison, Goal, scenario
from istd.evaluation.ir_metrics import IRMetrics
from istd.pseudo_masks.evolve import ROUND_UP, evolve_mask, region_peak_threshold

SIDE = 256  # Pixels of an image's side, about as SIRST's images have.
SPEED_GOALS = {2: 4.0, 60: 8.0, 2000: 50.0}  # Of the metrics, by regions an image.
EVOLUTION_REGIONS = 5


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    default = list(SPEED_GOALS)
    parser.add_argument("--regions", type=int, nargs="+", default=default, help="ir_metrics: regions of an image")


def draw_targets(regions: int) -> tuple[np.ndarray, np.ndarray]:
    """A probability map (256, 256) float32 and the targets (256, 256) bool, `regions` 8-connected ones.

    The probability is shifted by up to a pixel, misses a tenth of the targets and has as many false regions where the
    grid that the targets stand on has room.
    """
    rng = np.random.default_rng(0)
    rows = max(1, math.ceil(math.sqrt(max(regions, 0))))
    pitch = SIDE // rows
    side = min(5, pitch - 3)
    if regions < 1 or side < 1:
        raise ValueError(f"--regions: an image of {SIDE}x{SIDE} pixels cannot hold {regions} of them; 1 or more can.")
    probability = rng.uniform(0, 0.3, (SIDE, SIDE)).astype(np.float32)
    target = np.zeros((SIDE, SIDE), bool)
    cells = rng.permutation(rows * rows)
    for number, cell in enumerate(cells[: regions + regions // 10]):
        y, x = (pitch * index for index in divmod(int(cell), rows))
        if number < regions:
            target[y : y + side, x : x + side] = True
        if number >= regions // 10:
            y, x = y + rng.integers(2), x + rng.integers(2)
            probability[y : y + side, x : x + side] = rng.uniform(0.6, 1)
    return probability, target


def _regions(mask: np.ndarray) -> list[tuple[tuple[float, float], int]]:
    """Centroid and area of each 8-connected region."""
    return [(region.centroid, int(region.area)) for region in measure.regionprops(measure.label(mask, connectivity=2))]


def match_plainly(target: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    """Targets, detected targets and pixels of unmatched predicted regions, by a regionprops pass over both masks."""
    targets = _regions(target)
    unmatched = _regions(predicted)
    detected = 0
    for center, _ in targets:
        near = next((region for region in unmatched if math.dist(center, region[0]) < 3), None)
        if near:
            unmatched.remove(near)
            detected += 1
    return len(targets), detected, sum(area for _, area in unmatched)


def score_plainly(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """IoU, nIoU, Pd and Fa of one image, each metric on its own; those of regions by a regionprops pass each."""
    scores = {}
    for name in ("IoU", "nIoU"):
        predicted = probability > 0.5
        union = np.logical_or(predicted, target).sum()
        scores[name] = 100 * float(np.logical_and(predicted, target).sum() / union) if union else 0.0
    targets, detected, _ = match_plainly(target, probability > 0.5)
    scores["Pd"] = 100 * detected / targets if targets else math.nan
    _, _, false_pixels = match_plainly(target, probability > 0.5)
    scores["Fa"] = 1e6 * false_pixels / target.size
    return scores


def _score(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    metrics = IRMetrics(roc_bins=0)
    metrics.update(probability, target)
    figures = metrics.compute()
    return {name: figures[name] for name in ("IoU", "nIoU", "Pd", "Fa")}


@scenario("ir_metrics", "IoU, nIoU, Pd and Fa of an image, against one skimage.regionprops pass per metric of regions")
def ir_metrics(options: argparse.Namespace) -> Iterator[Case]:
    tolerance = {"IoU": 1e-9, "nIoU": 1e-9, "Pd": 1e-9, "Fa": 1e-6}
    for regions in options.regions:
        probability, target = draw_targets(regions)
        least = SPEED_GOALS.get(regions)
        goals = [Goal(f"at least {least:g} times as fast", "speed_ratio", least)] if least else []
        ways = {
            "a regionprops pass per metric": lambda p=probability, t=target: score_plainly(p, t),
            "one labeling pass": lambda p=probability, t=target: _score(p, t),
        }
        comparison = Comparison(*ways, _difference_by_name, tolerance, goals)
        yield Case({"regions": regions, "image_size": [SIDE, SIDE]}, ways, [comparison], memory="python")


def _difference_by_name(plain: dict[str, float], ours: dict[str, float]) -> dict[str, float]:
    return {name: abs(plain[name] - ours[name]) for name in ours}


def evolve_mask_plainly(
    mask: np.ndarray,
    probability: np.ndarray,
    *,
    decay: float = 0.97,
    neighborhood: int = 33,
    core: int = 3,
    base: float = 0.5,
    gain: float = 0.5,
    area_scale: float = 0.0015,
    region_threshold: float = 0.5,
) -> np.ndarray:
    """The answer of `evolve_mask` without points, by one full-image dilation and component pass per region."""
    mask, probability = np.asarray(mask, np.float32), np.asarray(probability, np.float32)
    grow = np.zeros(mask.shape, bool)
    for region in measure.regionprops(measure.label(mask > region_threshold, connectivity=2)):
        seed = np.zeros(mask.shape, np.uint8)
        y, x = (int(center + ROUND_UP) for center in region.centroid)
        seed[y, x] = 1
        around = cv2.dilate(seed, np.ones((neighborhood, neighborhood), np.uint8)) > 0
        peak = float(probability[around].max())
        threshold = region_peak_threshold(peak, int(region.area), area_scale * mask.size, base, gain)
        parts = measure.label((probability > np.float32(threshold)) & around, connectivity=2)
        reach = core // 2
        touching = np.unique(parts[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1])
        grow |= np.isin(parts, touching[touching > 0])
    new = np.where(grow, (mask + probability) / 2, mask * np.float32(decay)).astype(np.float32)
    new[mask == 1] = 1
    return new


@scenario("label_evolution", "update of a pseudo-mask, against one full-image dilation and component pass per region")
def label_evolution(options: argparse.Namespace) -> Iterator[Case]:
    probability, target = draw_targets(EVOLUTION_REGIONS)
    mask = np.where(target, np.float32(0.8), np.float32(0))
    ways = {
        "a full-image pass per region": lambda: evolve_mask_plainly(mask, probability),
        "a window per region": lambda: evolve_mask(mask, probability),
    }
    settings = {"regions": EVOLUTION_REGIONS, "image_size": [SIDE, SIDE]}
    goal = Goal("at least 3 times as fast", "speed_ratio", 3.0)
    comparison = Comparison(*ways, lambda plain, ours: {"mask": np.abs(plain - ours).max()}, {"mask": 0.0}, [goal])
    yield Case(settings, ways, [comparison], memory="python")
