"""Benchmark scenarios of istd for tools/benchmark.py; `SCENARIOS` is all that it knows of them."""

import argparse
import math
from collections.abc import Iterator

import numpy as np
from skimage import measure

from d2kit.benchmark import Case, Comparison, Goal, Scenario
from istd.deploy import benchmarks as networks
from istd.engine import benchmarks as steps
from istd.evaluation.ir_metrics import IRMetrics
from istd.pseudo_masks._plain import evolve_mask_plain
from istd.pseudo_masks.evolve import evolve_mask

_SIDE = 256  # pixels of an image's side, as SIRST's images have about
_SPEED_GOALS = {2: 4.0, 60: 8.0, 2000: 50.0}  # of the metrics, by regions an image
_EVOLUTION_REGIONS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of these scenarios."""
    group = parser.add_argument_group("istd")
    group.add_argument(
        "--regions", type=int, nargs="+", default=list(_SPEED_GOALS), help="ir_metrics: regions of an image"
    )
    steps.add_arguments(group)
    networks.add_arguments(group)


def draw_targets(regions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image's true targets and a prediction of them that is a little wrong.

    The prediction is shifted by up to a pixel, misses a tenth of the targets and has as many false regions where the
    grid that the targets stand on has room.

    Args:
        regions: 1 or more.

    Returns:
        probability (256, 256) float32 in [0, 1]; target (256, 256) bool with `regions` 8-connected regions.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, math.ceil(math.sqrt(max(regions, 0))))
    pitch = _SIDE // rows
    side = min(5, pitch - 3)
    if regions < 1 or side < 1:
        raise ValueError(f"--regions: an image of {_SIDE}x{_SIDE} pixels cannot hold {regions} of them; 1 or more can.")
    probability = rng.uniform(0, 0.3, (_SIDE, _SIDE)).astype(np.float32)
    target = np.zeros((_SIDE, _SIDE), bool)
    cells = rng.permutation(rows * rows)
    for number, cell in enumerate(cells[: regions + regions // 10]):
        y, x = (pitch * index for index in divmod(int(cell), rows))
        if number < regions:
            target[y : y + side, x : x + side] = True
        if number >= regions // 10:
            y, x = y + rng.integers(2), x + rng.integers(2)
            probability[y : y + side, x : x + side] = rng.uniform(0.6, 1)
    return probability, target


def _region_list(mask: np.ndarray) -> list[tuple[tuple[float, float], int]]:
    """Centroid and area of each 8-connected region."""
    return [(region.centroid, int(region.area)) for region in measure.regionprops(measure.label(mask, connectivity=2))]


def _match_plainly(target: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    """Targets, found targets and pixels of unmatched predicted regions, by one regionprops pass over both masks."""
    targets, left = _region_list(target), _region_list(predicted)
    found = 0
    for centre, _ in targets:
        for index, (other, _) in enumerate(left):
            if math.dist(centre, other) < 3:
                del left[index]
                found += 1
                break
    return len(targets), found, sum(area for _, area in left)


def score_plainly(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """IoU, nIoU, Pd and Fa of one image, each metric on its own; those of regions by a regionprops pass each."""
    scores = {}
    for name in ("IoU", "nIoU"):
        predicted = probability > 0.5
        union = np.logical_or(predicted, target).sum()
        scores[name] = 100 * float(np.logical_and(predicted, target).sum() / union) if union else 0.0
    targets, found, _ = _match_plainly(target, probability > 0.5)
    scores["Pd"] = 100 * found / targets if targets else math.nan
    _, _, false_pixels = _match_plainly(target, probability > 0.5)
    scores["Fa"] = 1e6 * false_pixels / target.size
    return scores


def _score(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    metrics = IRMetrics(roc_bins=0)
    metrics.update(probability, target)
    return metrics.compute()


def _metrics_cases(options: argparse.Namespace) -> Iterator[Case]:
    for regions in options.regions:
        probability, target = draw_targets(regions)
        goals = (
            [Goal(f"at least {least:g} times as fast", "speed_ratio", least)]
            if (least := _SPEED_GOALS.get(regions))
            else []
        )
        yield Case(
            settings={"regions": regions, "image_size": [_SIDE, _SIDE]},
            ways={
                "a regionprops pass per metric": lambda p=probability, t=target: score_plainly(p, t),
                "one labelling pass": lambda p=probability, t=target: _score(p, t),
            },
            comparisons=[
                Comparison(
                    "a regionprops pass per metric",
                    "one labelling pass",
                    lambda plain, ours: {name: abs(plain[name] - ours[name]) for name in ("IoU", "nIoU", "Pd", "Fa")},
                    {"IoU": 1e-9, "nIoU": 1e-9, "Pd": 1e-9, "Fa": 1e-6},
                    goals,
                )
            ],
            memory="python",
        )


def _evolution_cases(options: argparse.Namespace) -> Iterator[Case]:
    probability, target = draw_targets(_EVOLUTION_REGIONS)
    mask = np.where(target, np.float32(0.8), np.float32(0))
    yield Case(
        settings={"regions": _EVOLUTION_REGIONS, "image_size": [_SIDE, _SIDE]},
        ways={
            "a full-image pass per region": lambda: evolve_mask_plain(mask, probability),
            "a window per region": lambda: evolve_mask(mask, probability),
        },
        comparisons=[
            Comparison(
                "a full-image pass per region",
                "a window per region",
                lambda plain, ours: {"mask": np.abs(plain - ours).max()},
                {"mask": 0.0},
                [Goal("at least 3 times as fast", "speed_ratio", 3.0)],
            )
        ],
        memory="python",
    )


SCENARIOS = [
    Scenario(
        "ir_metrics",
        "IoU, nIoU, Pd and Fa of an image, against one skimage.regionprops pass per metric of regions",
        _metrics_cases,
    ),
    Scenario(
        "label_evolution",
        "update of a pseudo-mask, against one full-image dilation and component pass per region",
        _evolution_cases,
    ),
    *steps.SCENARIOS,
    *networks.SCENARIOS,
]
