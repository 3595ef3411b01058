"""Dynamic confidence calibration (S4M): thresholds that follow each class's scores, confidence that means expected IoU.

A pseudo-label's confidence is the IoU with the truth that is to be expected of its mask and class, where a wrong class
counts 0. It is a logistic map of class score, SAM's predicted IoU and the IoU of teacher mask and SAM mask (also of a
rejected answer of SAM). The map is fitted to the IoU that the teacher's pseudo-labels of labeled training images reach;
without samples it is the mean of the logits.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils import comm
from torch import nn

from s4m.pseudo_labels.masks import class_iou, unjudged
from s4m.pseudo_labels.selection import select

_BINS = 50  # The histogram of the scores in [0, 1] has this many bins.
_PRIOR = (0.0, 0.0, 1.0, 1 / 3, 1 / 3)  # Without SAM the map gives the score itself, with SAM the mean of three logits.
_PRIOR_STRENGTH = 2.0  # The prior weighs roughly as much as this many labeled predictions.
_MARGIN = 0.02  # Numbers are moved this far away from 0 and 1 before their logits are taken.
_NEWTON_STEPS = 30  # The length of each step is at most 1.
_SAME_OBJECT = 0.5  # From this IoU of boxes on, a doubtful prediction is the object of a pseudo-label.


def confidence_features(
    scores: torch.Tensor, quality: torch.Tensor, agreement: torch.Tensor, prompted: torch.Tensor
) -> torch.Tensor:
    """Return the input of the logistic map for N pseudo-labels.

    Args:
        scores: (N,) class scores of the teacher in [0, 1].
        quality: (N,) IoU that SAM predicts.
        agreement: (N,) IoU of the teacher's mask and SAM's.
        prompted: (N,) bool, whether SAM was prompted; where it was not, its two numbers take no part.

    Returns:
        (N, 5) float64: 1, a, s, a * (q - s), a * (m - s), where a is `prompted` and s, q, m are the three logits.
    """
    numbers = scores, quality, agreement
    s, q, m = (number.double().clamp(_MARGIN, 1 - _MARGIN).logit() for number in numbers)
    a = prompted.double()
    return torch.stack([torch.ones_like(s), a, s, a * (q - s), a * (m - s)], dim=1)


def fit_logistic(features: torch.Tensor, targets: torch.Tensor, prior: torch.Tensor, strength: float) -> torch.Tensor:
    """Fit the weights w of sigmoid(features @ w) to soft targets, with a pull to a prior.

    The result is the minimum of sum(cross entropy) + strength / 2 * |w - prior|^2, which is convex, by Newton's method.
    At the minimum the mean of the map is that of the targets, up to the pull.

    Args:
        features: (M, F) float64; M = 0 gives the prior.
        targets: (M,) in [0, 1].
        prior: (F,) float64.
        strength: a number above 0.
    """
    weights = prior.clone()
    for _ in range(_NEWTON_STEPS):
        mean = (features @ weights).sigmoid()
        gradient = features.T @ (mean - targets) + strength * (weights - prior)
        curvature = (features * (mean * (1 - mean))[:, None]).T @ features
        curvature.diagonal().add_(strength)
        step = torch.linalg.solve(curvature, gradient)
        weights = weights - step * (1.0 / step.norm().clamp(min=1.0))
    return weights


def quantile_of_histogram(histogram: torch.Tensor, share: float) -> torch.Tensor:
    """Return the point of [0, 1] below which a share of each row's mass lies: (K, B) -> (K,); 0 for an empty row.

    The mass of a bin is spread evenly. Example: the row (0, 4, 0, 4) has the mass 8, of which a share of 0.25 is 2.
    The bin from 0.25 to 0.5 is the first to reach 2, at half its mass, so the result is 0.375.
    """
    bins = histogram.shape[1]
    total = histogram.sum(dim=1, keepdim=True)
    below = histogram.cumsum(dim=1)
    index = (below < share * total).sum(dim=1, keepdim=True).clamp(max=bins - 1)
    mass = histogram.gather(1, index)
    part = (share * total - (below.gather(1, index) - mass)) / mass.clamp(min=torch.finfo(mass.dtype).tiny)
    return ((index + part.clamp(0, 1)) / bins * (total > 0))[:, 0]


class ConfidenceCalibration(nn.Module):
    """Thresholds and confidence, whose whole state is in buffers: it is saved, resumed and moved with the model.

    In distributed training the scores and samples of all processes are gathered, so all processes have one state.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        score: float = 0.7,
        low: float = 0.3,
        bounds: tuple[float, float] = (0.5, 0.9),
        quantile: float = 0.25,
        decay: float = 0.99,
        warmup: int = 100,
        period: int = 10,
        samples: int = 1024,
        floor: float = 0.4,
    ):
        """
        Args:
            num_classes: K.
            score: threshold of a class with fewer than `warmup` predictions so far.
            low, bounds, decay, period, floor: keys of S4M.CALIBRATION, which `s4m.config` explains.
            quantile: share of a class's scores that lies below its threshold.
            warmup: number of predictions of a class from which on its own threshold holds.
            samples: number of the latest labeled predictions that the fit uses.

        Raises:
            ValueError: the scores are not in order.
        """
        super().__init__()
        if not 0 <= low <= bounds[0] <= score <= bounds[1] <= 1:
            raise ValueError(
                "S4M.CALIBRATION.LOW, the first of S4M.CALIBRATION.BOUNDS, S4M.SELECTION.SCORE and the second of the "
                f"bounds must lie in this order in [0, 1], not {low}, {bounds[0]}, {score} and {bounds[1]}."
            )
        self.score = score
        self.low = low
        self.bounds = tuple(bounds)
        self.quantile = quantile
        self.decay = decay
        self.warmup = warmup
        self.period = period
        self.floor = floor
        self.register_buffer("histogram", torch.zeros(num_classes, _BINS))  # It counts scores; older ones fade.
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.int64))  # It counts all predictions.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # It counts iterations.
        self.register_buffer("features", torch.zeros(samples, len(_PRIOR), dtype=torch.float64))
        self.register_buffer("worth", torch.zeros(samples, dtype=torch.float64))  # It holds the IoU of each sample.
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))  # It counts all samples.
        self.register_buffer("weights", torch.tensor(_PRIOR, dtype=torch.float64))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read cfg.S4M.CALIBRATION, S4M.SELECTION.SCORE and MODEL.ROI_HEADS.NUM_CLASSES."""
        options = {key.lower(): value for key, value in cfg.S4M.CALIBRATION.items() if key != "ENABLED"}
        return {**options, "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES, "score": cfg.S4M.SELECTION.SCORE}

    @torch.no_grad()
    def thresholds(self) -> torch.Tensor:
        """Return the (K,) score that a pseudo-label of each class must exceed."""
        own = quantile_of_histogram(self.histogram, self.quantile).clamp(*self.bounds)
        return torch.where(self.seen >= self.warmup, own, own.new_tensor(self.score))

    def threshold_of(self, predictions: Instances) -> torch.Tensor:
        """Return the (N,) threshold of each prediction's class."""
        return self.thresholds()[predictions.pred_classes]

    def doubtful(self, predictions: Instances, labels: Instances, min_pixels: float) -> Instances:
        """Return predictions too unsure for a pseudo-label and too sure for background, which no pseudo-label explains.

        Args:
            predictions: the teacher's predictions for one image.
            labels: the pseudo-labels of the image, with `pred_boxes`.
            min_pixels: least sum of the soft mask in pixels, exclusive.

        Returns:
            new `Instances` of class -1 with `pred_masks`.
        """
        below = predictions.scores <= self.threshold_of(predictions)
        unsure = select(predictions[below], score=self.low, min_pixels=min_pixels)
        if len(labels) and len(unsure):
            unsure = unsure[pairwise_iou(unsure.pred_boxes, labels.pred_boxes).amax(dim=1) < _SAME_OBJECT]
        unsure.pred_classes = torch.full_like(unsure.pred_classes, -1)
        return unsure

    def due(self) -> bool:
        """Return whether this iteration fits confidence to labeled images."""
        return int(self.steps) % self.period == 0

    @torch.no_grad()
    def observe(self, predictions: list[Instances]) -> None:
        """Update the classes' distributions by the teacher's predictions on one unlabeled batch.

        Args:
            predictions: `scores` and `pred_classes` of each image. All processes call this together.
        """
        counts = torch.zeros_like(self.histogram).flatten()
        for image in predictions:
            bins = (image.scores * _BINS).long().clamp(0, _BINS - 1)
            counts += torch.bincount(image.pred_classes * _BINS + bins, minlength=len(counts)).to(counts)
        counts = counts.view_as(self.histogram)
        if comm.get_world_size() > 1:
            dist.all_reduce(counts)
        number = counts.sum(dim=1)
        self.histogram.copy_(torch.where(number[:, None] > 0, self.decay * self.histogram + counts, self.histogram))
        self.seen += number.long()
        self.steps += 1

    def describe(self, labels: Instances) -> torch.Tensor:
        """Return `confidence_features` (N, 5) of pseudo-labels, whether SAM refined them or not."""
        refined = labels.has("sam_agreement")
        prompted = torch.full_like(labels.scores, refined, dtype=torch.bool)
        quality, agreement = (labels.sam_quality, labels.sam_agreement) if refined else (labels.scores, labels.scores)
        return confidence_features(labels.scores, quality, agreement, prompted)

    @torch.no_grad()
    def confidence(self, labels: Instances) -> torch.Tensor:
        """Return the (N,) float32 expected IoU of pseudo-labels, in (0, 1)."""
        return (self.describe(labels) @ self.weights).sigmoid().float()

    @torch.no_grad()
    def learn(
        self, labels: list[Instances], truths: list[Instances], crowds: Sequence[Instances | None] | None = None
    ) -> None:
        """Fit confidence to the IoU of pseudo-labels of labeled images and to the latest samples of former calls.

        Pseudo-labels in void or crowds can be neither right nor wrong and are left out (`unjudged`). All processes call
        this together.

        Args:
            labels: the pseudo-labels of each image.
            truths: the annotations of each image in the same frame, with gt_classes (-1 marks void) and gt_masks.
            crowds: the crowds of each image, or None.
        """
        images = zip(labels, truths, crowds or [None] * len(labels), strict=True)
        features, iou = zip(*[self._samples(*image) for image in images], strict=True)
        gathered = comm.all_gather((torch.cat(features), torch.cat(iou)))
        features, iou = (torch.cat(parts)[-len(self.worth) :] for parts in zip(*gathered, strict=True))
        rows = ((int(self.drawn) + torch.arange(len(iou))) % len(self.worth)).to(self.worth.device)
        self.features[rows] = features.to(self.features)
        self.worth[rows] = iou.to(self.worth)
        self.drawn += len(iou)
        filled = min(int(self.drawn), len(self.worth))
        prior = self.weights.new_tensor(_PRIOR)
        self.weights.copy_(fit_logistic(self.features[:filled], self.worth[:filled], prior, _PRIOR_STRENGTH))

    def _samples(
        self, labels: Instances, truth: Instances, crowds: Instances | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (M, 5) and IoU (M,) of an image's pseudo-labels that can be judged, float64 on the CPU."""
        iou = class_iou(labels.pred_masks, labels.pred_classes, truth)
        best = iou.amax(dim=1) if iou.shape[1] else iou.new_zeros(len(iou))
        judged = ~unjudged(labels.pred_masks, labels.pred_classes, iou, truth, crowds)
        return self.describe(labels)[judged].cpu(), best[judged].double().cpu()

    def scalars(self) -> dict[str, float]:
        """Return the thresholds' extremes and mean over the classes, and the number of samples, for TensorBoard."""
        thresholds = self.thresholds()
        return {
            "calibration/threshold_min": thresholds.min().item(),
            "calibration/threshold_mean": thresholds.mean().item(),
            "calibration/threshold_max": thresholds.max().item(),
            "calibration/warm_classes": float((self.seen >= self.warmup).float().mean()),
            "calibration/samples": float(self.drawn),
        }
