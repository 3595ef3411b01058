"""Metrics of images that have points but no masks; they serve to select a model."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from istd.evaluation.ir_metrics import check_probability, ratio
from istd.evaluation.regions import Regions, find_regions, match_centroids


@dataclass(frozen=True)
class PointScore:
    """Counts of one image: points, found points, predicted regions, pixels of unmatched regions, and all pixels."""

    points: int
    found: int
    regions: int
    false_pixels: int
    pixels: int


def match_points(points: np.ndarray, regions: Regions, distance: float) -> np.ndarray:
    """Match each point to the unused region that holds it, or else to the first unused region with a near centroid.

    Args:
        points, regions: (N, 2) x, y in pixels inside the image, and predicted regions.
        distance: limit of the distance from point to centroid in pixels, exclusive.

    Returns:
        (N,) int64 region of each point, -1 for a missed point; no region is matched twice.
    """
    cells = np.asarray(points, np.float64).reshape(-1, 2)[:, ::-1]
    holders = regions.at(np.floor(cells))
    _, first = np.unique(holders, return_index=True)
    matches = np.full(len(cells), -1)
    matches[first] = holders[first]
    free = np.setdiff1d(np.arange(len(regions)), matches)
    unmatched = np.flatnonzero(matches < 0)
    near = match_centroids(cells[unmatched], regions.centroids[free], distance)
    matches[unmatched] = np.where(near >= 0, free[near] if len(free) else -1, -1)
    return matches


class PointMetrics:
    """Metrics of a set of images against points alone.

    A point is found if an unused predicted region holds it or has its centroid less than `distance` pixels away.

    - Pd is the share of points that are found, in %.
    - Fa is the share of pixels in predicted regions that match no point, in 1e-6.
    - false_regions is the mean number of such regions in an image.
    - F1 is 2 found / (points + predicted regions), in %; it is the figure that selects a model.

    No metric depends on the shape of masks, so two models that find the same targets have equal scores. A metric whose
    denominator is 0 is nan.

    Args:
        threshold: probability above which a pixel is predicted.
        distance: limit of the distance from point to centroid in pixels, exclusive.
    """

    def __init__(self, threshold: float = 0.5, distance: float = 3.0):
        self.threshold = threshold
        self.distance = distance
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.scores: list[PointScore] = []

    def update(self, probability: np.ndarray, points: np.ndarray) -> PointScore:
        """Add one image and return its counts.

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
        """Add the images of other metrics."""
        for other in others:
            self.scores.extend(other.scores)
        return self

    def compute(self) -> dict[str, float]:
        """Return Pd and F1 in %, Fa in 1e-6, and false_regions per image."""
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
