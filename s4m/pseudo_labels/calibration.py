"""Dynamic confidence calibration (S4M): thresholds that follow each class's scores, confidence that means expected IoU.

A pseudo-label's confidence is the IoU with the truth that is to be expected of its mask and class, a wrong class
counting 0. It is a logistic map of class score, SAM's predicted IoU and the IoU of teacher mask and SAM mask (also of
an answer of SAM that was rejected), fitted to what the teacher's pseudo-labels of labeled training images are worth;
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
from s4m.ranges import require_range

_BINS = 50  # of the scores in [0, 1]
_FEATURES = 5
_PRIOR = (0.0, 0.0, 1.0, 1 / 3, 1 / 3)  # without SAM the score itself, with SAM the mean of the three logits
_PRIOR_STRENGTH = 2.0  # as many labeled predictions as the prior outweighs, roughly
_MARGIN = 0.02  # logits are of numbers at least this far from 0 and 1
_NEWTON_STEPS = 30  # of at most length 1
_SAME_OBJECT = 0.5  # IoU of boxes from which a doubtful prediction says nothing that a pseudo-label does not


def confidence_features(
    scores: torch.Tensor, quality: torch.Tensor, agreement: torch.Tensor, asked: torch.Tensor
) -> torch.Tensor:
    """What the logistic map sees of N pseudo-labels.

    Args:
        scores: (N,) of the teacher; quality: (N,) SAM's predicted IoU; agreement: (N,) IoU of the teacher's mask and
            SAM's, all in [0, 1].
        asked: (N,) bool, whether SAM was asked; where it was not, its two numbers take no part.

    Returns:
        (N, 5) float64: 1, a, s, a * (q - s), a * (m - s), with a = asked and s, q, m the logits of the three.
    """
    numbers = scores, quality, agreement
    score, trust, same = (number.double().clamp(_MARGIN, 1 - _MARGIN).logit() for number in numbers)
    known = asked.double()
    return torch.stack([torch.ones_like(score), known, score, known * (trust - score), known * (same - score)], dim=1)


def fit_logistic(features: torch.Tensor, targets: torch.Tensor, prior: torch.Tensor, strength: float) -> torch.Tensor:
    """Weights w of sigmoid(features @ w) that minimise the cross entropy to soft targets plus a pull to a prior.

    The minimum of sum(CE) + strength / 2 * |w - prior|^2, which is convex, by Newton's method. At it the mean of the
    map is that of the targets, but for the pull.

    Args:
        features: (M, F) float64; targets: (M,) in [0, 1]; prior: (F,); M = 0 gives the prior.
        strength: above 0.
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
    """Where in [0, 1] a share of each row's mass lies below, linear within a bin: (K, B) -> (K,); 0 of an empty row."""
    bins = histogram.shape[1]
    total = histogram.sum(dim=1, keepdim=True)
    below = histogram.cumsum(dim=1)
    index = (below < share * total).sum(dim=1, keepdim=True).clamp(max=bins - 1)
    mass = histogram.gather(1, index)
    part = (share * total - (below.gather(1, index) - mass)) / mass.clamp(min=torch.finfo(mass.dtype).tiny)
    return ((index + part.clamp(0, 1)) / bins * (total > 0))[:, 0]


def _check_scores(low: float, bounds: tuple[float, float], score: float) -> None:
    """Raise ValueError unless all lie in order: a class's first threshold is one that it may have later."""
    if not 0 <= low <= bounds[0] <= score <= bounds[1] <= 1:
        raise ValueError(
            "S4M.CALIBRATION.LOW, the first of S4M.CALIBRATION.BOUNDS, S4M.SELECTION.SCORE and the second of the "
            f"bounds must lie in this order in [0, 1], not {low}, {bounds[0]}, {score} and {bounds[1]}."
        )


def _check_numbers(quantile: float, shares: dict[str, float], counts: dict[str, int]) -> None:
    """Raise ValueError naming a key of S4M.CALIBRATION whose number lies out of its range."""
    if not 0 < quantile < 1:
        raise ValueError(f"S4M.CALIBRATION.QUANTILE must lie between 0 and 1, not be {quantile}.")
    for name, value in shares.items():
        require_range(f"S4M.CALIBRATION.{name}", value, high=1)
    for name, value in counts.items():
        require_range(f"S4M.CALIBRATION.{name}", value, low=1)


class ConfidenceCalibration(nn.Module):
    """Thresholds and confidence, whose whole state is in buffers: it is saved, resumed and moved with the model.

    In distributed training the scores and samples of all processes are gathered, so the state is one.
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
            score: threshold of a class of which fewer than `warmup` predictions were seen; so a class that is never
                seen changes nothing for the others, and waits for nothing.
            low: least score of a prediction that is looked at.
            bounds: of a threshold, `score` among them.
            quantile: a class's threshold is this quantile of its scores.
            decay: of a class's distribution at each iteration that saw the class.
            warmup: predictions.
            period: iterations from one fit to the next.
            samples: latest labeled predictions that the fit is to.
            floor: confidence below which a region is ignored.

        Raises:
            ValueError: numbers that do not go together.
        """
        super().__init__()
        _check_scores(low, bounds, score)
        counts = {"WARMUP": warmup, "PERIOD": period, "SAMPLES": samples}
        _check_numbers(quantile, {"DECAY": decay, "FLOOR": floor}, counts)
        self.score, self.low, self.bounds, self.quantile = score, low, tuple(bounds), quantile
        self.decay, self.warmup, self.period, self.floor = decay, warmup, period, floor
        self.register_buffer("histogram", torch.zeros(num_classes, _BINS))  # of scores, older ones faded
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.int64))  # predictions in all
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # iterations
        self.register_buffer("features", torch.zeros(samples, _FEATURES, dtype=torch.float64))
        self.register_buffer("worth", torch.zeros(samples, dtype=torch.float64))  # IoU of each sample
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))  # samples in all, the latest overwrite
        self.register_buffer("weights", torch.tensor(_PRIOR, dtype=torch.float64))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read cfg.S4M.CALIBRATION, S4M.SELECTION.SCORE and MODEL.ROI_HEADS.NUM_CLASSES."""
        node = cfg.S4M.CALIBRATION
        names = ("LOW", "BOUNDS", "DECAY", "PERIOD", "FLOOR")
        options = {name.lower(): node[name] for name in names}
        return {**options, "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES, "score": cfg.S4M.SELECTION.SCORE}

    @property
    def min_score(self) -> float:
        """Least score that the teacher has to answer with."""
        return self.low

    @torch.no_grad()
    def thresholds(self) -> torch.Tensor:
        """(K,) least score of a pseudo-label of each class, exclusive."""
        own = quantile_of_histogram(self.histogram, self.quantile).clamp(*self.bounds)
        return torch.where(self.seen >= self.warmup, own, own.new_tensor(self.score))

    def threshold_of(self, predictions: Instances) -> torch.Tensor:
        """(N,) the threshold of each prediction's class."""
        return self.thresholds()[predictions.pred_classes]

    def doubtful(self, predictions: Instances, labels: Instances, min_pixels: float) -> Instances:
        """Predictions too unsure for a pseudo-label and too sure for background, which no pseudo-label explains.

        Args:
            predictions: of one image.
            labels: the pseudo-labels of the image, with `pred_boxes`.
            min_pixels: as of `select`.

        Returns:
            new `Instances` with `pred_masks`, of class -1.
        """
        below = predictions.scores <= self.threshold_of(predictions)
        unsure = select(predictions[below], score=self.low, min_pixels=min_pixels)
        if len(labels) and len(unsure):
            unsure = unsure[pairwise_iou(unsure.pred_boxes, labels.pred_boxes).amax(dim=1) < _SAME_OBJECT]
        unsure.pred_classes = torch.full_like(unsure.pred_classes, -1)
        return unsure

    def due(self) -> bool:
        """Whether this iteration fits confidence to labeled images."""
        return int(self.steps) % self.period == 0

    @torch.no_grad()
    def observe(self, predictions: list[Instances]) -> None:
        """Let the classes' distributions follow the teacher's predictions on one unlabeled batch.

        Args:
            predictions: of each image, with `scores` and `pred_classes`; all processes call this together.
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
        """`confidence_features` (N, 5) of pseudo-labels, refined by SAM or not."""
        asked = torch.full_like(labels.scores, labels.has("sam_agreement"), dtype=torch.bool)
        if not labels.has("sam_agreement"):
            return confidence_features(labels.scores, labels.scores, labels.scores, asked)
        return confidence_features(labels.scores, labels.sam_quality, labels.sam_agreement, asked)

    @torch.no_grad()
    def confidence(self, labels: Instances) -> torch.Tensor:
        """(N,) float32 expected IoU of pseudo-labels, in (0, 1)."""
        return (self.describe(labels) @ self.weights).sigmoid().float()

    @torch.no_grad()
    def learn(
        self, labels: list[Instances], truths: list[Instances], crowds: Sequence[Instances | None] | None = None
    ) -> None:
        """Fit confidence to what pseudo-labels of labeled images are worth, the latest samples of former calls too.

        Pseudo-labels in void or crowds, of which nobody knows, are left out (`unjudged`).

        Args:
            labels: the pseudo-labels of each image; truths: its annotations in the same frame, with gt_classes (-1
                marks void) and gt_masks; crowds: those of each image, or None. All processes call this together.
        """
        images = zip(labels, truths, crowds or [None] * len(labels), strict=True)
        features, best = zip(*[self._samples(*image) for image in images], strict=True)
        gathered = comm.all_gather((torch.cat(features), torch.cat(best)))
        features, best = (torch.cat(parts)[-len(self.worth) :] for parts in zip(*gathered, strict=True))
        rows = (int(self.drawn) + torch.arange(len(best))) % len(self.worth)
        rows = rows.to(self.worth.device)
        self.features[rows], self.worth[rows] = features.to(self.features), best.to(self.worth)
        self.drawn += len(best)
        filled = min(int(self.drawn), len(self.worth))
        prior = self.weights.new_tensor(_PRIOR)
        self.weights.copy_(fit_logistic(self.features[:filled], self.worth[:filled], prior, _PRIOR_STRENGTH))

    def _samples(
        self, labels: Instances, truth: Instances, crowds: Instances | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (M, 5) and IoU (M,) of the pseudo-labels of an image that can be judged, float64 on the CPU."""
        iou = class_iou(labels.pred_masks, labels.pred_classes, truth)
        best = iou.amax(dim=1) if iou.shape[1] else iou.new_zeros(len(iou))
        judged = ~unjudged(labels.pred_masks, labels.pred_classes, iou, truth, crowds)
        return self.describe(labels)[judged].cpu(), best[judged].double().cpu()

    def scalars(self, prefix: str = "calibration/") -> dict[str, float]:
        """The thresholds' extremes and mean over the classes, and how many samples the fit has seen."""
        thresholds = self.thresholds()
        figures = {"min": thresholds.min(), "mean": thresholds.mean(), "max": thresholds.max()}
        result = {f"{prefix}threshold_{name}": value.item() for name, value in figures.items()}
        result[f"{prefix}warm_classes"] = float((self.seen >= self.warmup).float().mean())
        result[f"{prefix}samples"] = float(self.drawn)
        return result
