"""What can be measured where a split has points but no masks, for the selection of a model."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from istd.evaluation.ir_metrics import check_probability, ratio
from istd.evaluation.regions import Regions, find_regions, match_centroids


@dataclass(frozen=True)
class PointScore:
    """Counts of one image: its points, those found, predicted regions, pixels of unmatched regions, all pixels."""

    points: int
    found: int
    regions: int
    false_pixels: int
    pixels: int


def match_points(points: np.ndarray, regions: Regions, distance: float) -> np.ndarray:
    """Region of each point: the unused one that holds it, else the first unused one whose centroid is near.

    Args:
        points: (N, 2) x, y in pixels inside the image.
        regions: predicted regions.
        distance: pixels, exclusive, from point to centroid.

    Returns:
        (N,) int64 region, -1 where the point is missed; no region serves two points.
    """
    cells = np.asarray(points, np.float64).reshape(-1, 2)[:, ::-1]
    holders = regions.at(np.floor(cells))
    _, first = np.unique(holders, return_index=True)
    matches = np.full(len(cells), -1)
    matches[first] = holders[first]
    free = np.setdiff1d(np.arange(len(regions)), matches)
    left = np.flatnonzero(matches < 0)
    near = match_centroids(cells[left], regions.centroids[free], distance)
    matches[left] = np.where(near >= 0, free[near] if len(free) else -1, -1)
    return matches


class PointMetrics:
    """Metrics of a set of images against points alone.

    A point is found when an unused predicted region holds it, or has its centroid less than `distance` pixels away.

    - Pd: found points of all points, in %.
    - Fa: pixels of predicted regions that match no point, of all pixels, in 1e-6.
    - false_regions: such regions an image.
    - F1: 2 found / (points + predicted regions), in %: the one figure to select a model by.

    None of them sees the shape of a mask: of two models that find the same targets both score alike. nan where there
    is nothing to divide by.

    Args:
        threshold: probability above which a pixel is predicted.
        distance: pixels, exclusive.
    """

    def __init__(self, threshold: float = 0.5, distance: float = 3.0):
        self.threshold, self.distance = threshold, distance
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.scores: list[PointScore] = []

    def update(self, probability: np.ndarray, points: np.ndarray) -> PointScore:
        """Add one image and return what it adds.

        Args:
            probability: (H, W) in [0, 1], at the image's own size.
            points: (N, 2) x, y in pixels; N = 0 for an image without targets.

        Raises:
            ValueError: a point is outside the image, or `probability` is not a map in [0, 1].
        """
        probability = check_probability(probability)
        points = np.asarray(points, np.float64).reshape(-1, 2)
        height, width = probability.shape
        outside = (points < 0).any(1) | (points[:, 0] >= width) | (points[:, 1] >= height)
        if outside.any():
            x, y = points[outside][0]
            raise ValueError(f"point ({x:g}, {y:g}) is outside its image of {width}x{height} pixels.")
        regions = find_regions(probability > self.threshold)
        matches = match_points(points, regions, self.distance)
        matched = matches[matches >= 0]
        false_pixels = int(regions.areas.sum() - regions.areas[matched].sum())
        score = PointScore(len(points), len(matched), len(regions), false_pixels, probability.size)
        self.scores.append(score)
        return score

    def merge(self, others: Iterable["PointMetrics"]) -> "PointMetrics":
        """Add the images of other processes' metrics."""
        for other in others:
            self.scores.extend(other.scores)
        return self

    def compute(self) -> dict[str, float]:
        """Pd and F1 in %, Fa in 1e-6, false_regions an image."""
        points, found, regions, false_pixels, pixels = (
            sum(getattr(score, name) for score in self.scores)
            for name in ("points", "found", "regions", "false_pixels", "pixels")
        )
        return {
            "F1": ratio(200 * found, points + regions),
            "Pd": ratio(100 * found, points),
            "Fa": ratio(1e6 * false_pixels, pixels),
            "false_regions": ratio(regions - found, len(self.scores)),
        }
