"""IoU, nIoU, Pd, Fa, ROC and AUC of infrared small target detection, as defined in the literature."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from istd.evaluation.regions import find_regions, match_centroids

EMPTY = ("zero", "one", "skip")


@dataclass(frozen=True)
class ImageScore:
    """Counts that one image adds to the metrics.

    Attributes:
        intersection, union: pixels in both prediction and target, and pixels in either.
        targets, found: target regions, and those that a predicted region matches.
        regions: predicted regions.
        false_pixels: pixels of predicted regions that match no target.
        pixels: all pixels, H * W.
    """

    intersection: int
    union: int
    targets: int
    found: int
    regions: int
    false_pixels: int
    pixels: int

    @property
    def iou(self) -> float:
        """IoU in [0, 1], or nan if neither prediction nor target has a pixel."""
        return self.intersection / self.union if self.union else math.nan


def check_probability(probability: np.ndarray) -> np.ndarray:
    """Return a probability map (H, W) in float; ValueError if it has another shape or lies outside [0, 1]."""
    probability = np.asarray(probability)
    if probability.ndim != 2:
        raise ValueError(f"a probability map is an (H, W) array, not one of shape {probability.shape}.")
    if probability.dtype == bool:
        probability = probability.astype(np.float32)
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise ValueError("a probability map lies in [0, 1]: apply a sigmoid to logits first.")
    return probability


def as_mask(target: np.ndarray) -> np.ndarray:
    """Return an (H, W) target as bool: integers (0/1, 0/255) and bools that are not 0, floats above 0.5."""
    target = np.asarray(target)
    return target > 0.5 if np.issubdtype(target.dtype, np.floating) else target != 0


def score_image(
    probability: np.ndarray, target: np.ndarray, *, threshold: float = 0.5, distance: float = 3.0
) -> ImageScore:
    """Score one image with one labeling pass for the prediction and one for the target.

    A target is found if the centroid of an unused predicted 8-connected region lies less than `distance` pixels from
    its own. Targets choose in label order (first pixel, row by row); each takes the first such region in label order.

    Args:
        probability: (H, W) in [0, 1], at the image's own size.
        target: (H, W) target, see `as_mask`.
        threshold: pixels above this probability (exclusive) are predicted.
        distance: limit of the distance between centroids in pixels, exclusive.

    Raises:
        ValueError: the sizes differ, or `probability` is not a map in [0, 1].
    """
    probability = check_probability(probability)
    target = as_mask(target)
    if probability.shape != target.shape:
        raise ValueError(f"the prediction has size {probability.shape}, the target mask {target.shape} (H, W).")
    predicted = find_regions(probability > threshold)
    true = find_regions(target)
    matches = match_centroids(true.centroids, predicted.centroids, distance)
    matched = matches[matches >= 0]
    intersection = int(np.count_nonzero(target.ravel()[predicted.pixels]))
    return ImageScore(
        intersection=intersection,
        union=len(predicted.pixels) + len(true.pixels) - intersection,
        targets=len(true),
        found=len(matched),
        regions=len(predicted),
        false_pixels=int(predicted.areas.sum() - predicted.areas[matched].sum()),
        pixels=target.size,
    )


class IRMetrics:
    """Metrics of a set of images, with the published conventions as defaults.

    - IoU is the intersection over union of all pixels of the set, in %.
    - nIoU is the mean of the images' own IoU, in %.
    - Pd is the share of targets that are found, in % (see `score_image`), or nan if the set has no target.
    - Fa is the share of pixels in predicted regions that match no target, in 1e-6.
    - ROC and AUC are of pixels, over the thresholds 0, 1/T .. (T-1)/T (p > threshold is positive) with the ends (0, 0)
      and (1, 1). AUC in [0, 1] follows the trapezoid rule and is nan if all pixels or no pixels are targets.

    An image with neither prediction nor target has no IoU. `empty` defines its value in nIoU: "zero" (published: 0, so
    that a correctly empty image lowers the mean), "one" (100 %) or "skip" (omitted). The same holds for the IoU of a
    set without any prediction and target (nan for "skip"). Pd and Fa need no convention, because such an image adds
    only its pixels. All metrics of a set without images are nan.

    Args:
        threshold: probability above which a pixel is predicted.
        distance: limit of the distance between matching centroids in pixels, exclusive.
        empty: "zero", "one" or "skip".
        roc_bins: number T of thresholds of the ROC; 0 omits ROC and AUC. A power of two makes p > threshold exact.

    Raises:
        ValueError: `empty` is none of the three words.
    """

    def __init__(self, threshold: float = 0.5, distance: float = 3.0, empty: str = "zero", roc_bins: int = 256):
        if empty not in EMPTY:
            raise ValueError(f"empty='{empty}' is unknown: choose one of {', '.join(EMPTY)}.")
        self.threshold = threshold
        self.distance = distance
        self.empty = empty
        self.roc_bins = roc_bins
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.scores: list[ImageScore] = []
        # The rows count pixels of targets and of background by the number of thresholds that they exceed.
        self.histogram = np.zeros((2, self.roc_bins + 1), np.int64)

    def update(self, probability: np.ndarray, target: np.ndarray) -> ImageScore:
        """Add one image and return its counts, see `score_image`.

        Args:
            probability: (H, W) float in [0, 1] at the image's own size.
            target: (H, W) bool, 0/1, 0/255 or float in [0, 1].

        Raises:
            ValueError: the sizes differ or `probability` is not a map in [0, 1].
        """
        score = score_image(probability, target, threshold=self.threshold, distance=self.distance)
        self.scores.append(score)
        if self.roc_bins:
            self.histogram += self._exceeded(check_probability(probability), as_mask(target))
        return score

    def _exceeded(self, probability: np.ndarray, target: np.ndarray) -> np.ndarray:
        bins = self.roc_bins + 1
        exceeded = np.ceil(probability.ravel() * self.roc_bins).astype(np.int32)
        total = np.bincount(exceeded, minlength=bins)
        positive = np.bincount(exceeded[np.flatnonzero(target)], minlength=bins)
        return np.stack([positive, total - positive])

    def merge(self, others: Iterable["IRMetrics"]) -> "IRMetrics":
        """Add the images of other metrics; the result does not depend on the division of images among them."""
        for other in others:
            self.scores.extend(other.scores)
            self.histogram += other.histogram
        return self

    def compute(self) -> dict[str, float | dict[str, list[float]]]:
        """Return IoU, nIoU and Pd in %, Fa in 1e-6, and AUC and ROC = {"threshold", "fpr", "tpr"} lists."""
        intersection, union, targets, found, false_pixels, pixels = (
            sum(getattr(score, name) for score in self.scores)
            for name in ("intersection", "union", "targets", "found", "false_pixels", "pixels")
        )
        empty = {"zero": 0.0, "one": 1.0, "skip": math.nan}[self.empty]
        ious = [empty if math.isnan(score.iou) else score.iou for score in self.scores]
        ious = [iou for iou in ious if not math.isnan(iou)]
        empty_iou = 100 * empty if self.scores else math.nan
        result = {
            "IoU": 100 * intersection / union if union else empty_iou,
            "nIoU": ratio(100 * math.fsum(ious), len(ious)),
            "Pd": ratio(100 * found, targets),
            "Fa": ratio(1e6 * false_pixels, pixels),
        }
        return result | (self._roc() if self.roc_bins else {})

    def _roc(self) -> dict[str, float | dict[str, list[float]]]:
        above = np.cumsum(self.histogram[:, ::-1], axis=1)[:, ::-1]
        totals = above[:, :1]
        # Column j + 1 counts pixels above threshold j / T. The first column counts all pixels, for the end (1, 1).
        counts = np.concatenate([above, np.zeros((2, 1), np.int64)], axis=1)
        with np.errstate(invalid="ignore"):
            tpr, fpr = counts / totals
        thresholds = [-math.inf, *(np.arange(self.roc_bins) / self.roc_bins).tolist(), 1.0]
        auc = float(np.sum((fpr[:-1] - fpr[1:]) * (tpr[:-1] + tpr[1:]) / 2))
        return {"AUC": auc, "ROC": {"threshold": thresholds, "fpr": fpr.tolist(), "tpr": tpr.tolist()}}


def ratio(part: float, whole: float) -> float:
    """Return part / whole, or nan if whole is 0."""
    return part / whole if whole else math.nan
