"""The scenarios compare the ISTD metrics and label evolution with full-image passes for each metric or region."""

import argparse
import math
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
from skimage import measure

from benchmarks.harness import Case, Comparison, Goal, largest_difference
from istd.evaluation.ir_metrics import IRMetrics
from istd.pseudo_masks.evolve import ROUND_UP, evolve_mask, region_peak_threshold

SIDE = 256  # An image's side in pixels is about that of SIRST's images.
SPEED_GOALS = {2: 4.0, 60: 8.0, 2000: 50.0}  # By the number of regions, the metrics are at least this much faster.
EVOLUTION_REGIONS = 5
CONSTANTS = evolve_mask.__kwdefaults__  # The plain form takes the published constants of label evolution.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the scenarios."""
    parser.add_argument("--regions", type=int, nargs="+", default=[*SPEED_GOALS], help="ir_metrics: regions an image")


def draw_targets(regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a probability map (256, 256) float32 and a target mask (256, 256) bool of `regions` 8-connected regions.

    The probability is shifted by up to a pixel and misses a tenth of the targets. It has as many false regions, if the
    grid on which the targets stand has room. ValueError says how many regions the image can hold.
    """
    if not 1 <= regions <= (SIDE // 4) ** 2:
        raise ValueError(f"--regions must lie between 1 and {(SIDE // 4) ** 2}, but is {regions}.")
    rng = np.random.default_rng(0)
    rows = math.ceil(math.sqrt(regions))
    pitch = SIDE // rows
    side = min(5, pitch - 3)
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


def centroids_and_areas(mask: np.ndarray) -> list[tuple[tuple[float, float], int]]:
    """Return the centroid (y, x) and the area in pixels of each 8-connected region."""
    return [(region.centroid, int(region.area)) for region in measure.regionprops(measure.label(mask, connectivity=2))]


def match_plainly(target: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    """Count targets, detected targets and pixels of unmatched predicted regions by a regionprops pass of both masks."""
    targets = centroids_and_areas(target)
    unmatched = centroids_and_areas(predicted)
    detected = 0
    for center, _ in targets:
        near = next((region for region in unmatched if math.dist(center, region[0]) < 3), None)
        if near:
            unmatched.remove(near)
            detected += 1
    return len(targets), detected, sum(area for _, area in unmatched)


def score_plainly(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return IoU, nIoU, Pd and Fa of one image, each computed on its own; Pd and Fa take a regionprops pass each."""
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


def score_in_one_pass(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return the metrics of one image by `IRMetrics`."""
    metrics = IRMetrics(roc_bins=0)
    metrics.update(probability, target)
    return metrics.compute()


def ir_metrics(options: argparse.Namespace) -> Iterator[Case]:
    """One labeling pass for IoU, nIoU, Pd and Fa is compared with one skimage.regionprops pass per region metric."""
    tolerance = {"IoU": 1e-9, "nIoU": 1e-9, "Pd": 1e-9, "Fa": 1e-6}
    for regions in options.regions:
        maps = draw_targets(regions)
        least = SPEED_GOALS.get(regions)
        goals = [Goal(f"at least {least:g} times as fast", "speed_ratio", least)] if least else []
        ways = {
            "a regionprops pass per metric": partial(score_plainly, *maps),
            "one labeling pass": partial(score_in_one_pass, *maps),
        }
        comparison = Comparison(*ways, lambda a, b: {key: abs(a[key] - b[key]) for key in b}, tolerance, goals)
        yield Case({"regions": regions, "image_size": [SIDE, SIDE]}, ways, [comparison], memory="python")


def evolve_mask_plainly(mask: np.ndarray, probability: np.ndarray, **constants: float) -> np.ndarray:
    """Return what `evolve_mask` returns without points, by a full-image dilation and component pass per region."""
    c = SimpleNamespace(**CONSTANTS | constants)
    grow = np.zeros(mask.shape, bool)
    for region in measure.regionprops(measure.label(mask > c.region_threshold, connectivity=2)):
        seed = np.zeros(mask.shape, np.uint8)
        y, x = (int(center + ROUND_UP) for center in region.centroid)
        seed[y, x] = 1
        around = cv2.dilate(seed, np.ones((c.neighborhood, c.neighborhood), np.uint8)) > 0
        peak = float(probability[around].max())
        threshold = region_peak_threshold(peak, int(region.area), c.area_scale * mask.size, c.base, c.gain)
        parts = measure.label((probability > np.float32(threshold)) & around, connectivity=2)
        reach = c.core // 2
        touching = np.unique(parts[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1])
        grow |= np.isin(parts, touching[touching > 0])
    new = np.where(grow, (mask + probability) / 2, mask * np.float32(c.decay))
    new[mask == 1] = 1
    return new


def label_evolution(options: argparse.Namespace) -> Iterator[Case]:
    """The update of a pseudo-mask is compared with one full-image dilation and component pass per region."""
    probability, target = draw_targets(EVOLUTION_REGIONS)
    mask = np.where(target, np.float32(0.8), np.float32(0))
    ways = {
        "a full-image pass per region": lambda: evolve_mask_plainly(mask, probability),
        "a window per region": lambda: evolve_mask(mask, probability),
    }
    settings = {"regions": EVOLUTION_REGIONS, "image_size": [SIDE, SIDE]}
    goal = Goal("at least 3 times as fast", "speed_ratio", 3.0)
    comparison = Comparison(*ways, largest_difference("mask"), {"mask": 0.0}, [goal])
    yield Case(settings, ways, [comparison], memory="python")
