"""From the teacher's predictions to the student's training data: select, refine, mix, augment (S4M, stage 2)."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import BitMasks, Instances
from detectron2.utils.logger import log_first_n

from d2kit.rng import derive_seed
from s4m.pseudo_labels.calibration import ConfidenceCalibration
from s4m.pseudo_labels.copy_paste import mix
from s4m.pseudo_labels.masks import join
from s4m.pseudo_labels.matching import MatchingThresholds
from s4m.pseudo_labels.record import ImageRecord, PseudoLabelRecord
from s4m.pseudo_labels.refinement import Source, refine
from s4m.pseudo_labels.selection import select
from s4m.pseudo_labels.strong_augmentation import strong_augment
from s4m.sam import PromptableSegmenter


class PseudoLabeler:
    """Turns a weakly augmented batch and the teacher's predictions into a strongly augmented, labeled batch.

    Args:
        score: least score of a pseudo-label, exclusive, where `calibration` is None.
        min_pixels: least sum of a soft mask in pixels, exclusive.
        num_points: number of positive points that SAM gets for each mask; 0 means no refinement.
        matching: thresholds for matching SAM's candidates; None takes the candidate that SAM trusts most.
        mixing: arguments of `mix` (fraction, min_area, dynamic, scale); None does not mix.
        strong: arguments of `strong_augment`; None leaves the weak view as it is.
        bgr: whether the channels of the images are blue, green, red.
        calibration: it chooses the score of each class, weighs pseudo-labels and names regions to ignore.
        with_maps: whether the targets carry the maps of the boundary-aware consistency.
    """

    @configurable
    def __init__(
        self,
        *,
        score: float = 0.7,
        min_pixels: float = 5.0,
        num_points: int = 0,
        matching: MatchingThresholds | None = None,
        mixing: dict[str, Any] | None = None,
        strong: dict[str, Any] | None = None,
        bgr: bool = True,
        calibration: ConfidenceCalibration | None = None,
        with_maps: bool = False,
    ):
        self.score = score
        self.min_pixels = min_pixels
        self.num_points = num_points
        self.matching = matching
        self.mixing = mixing
        self.strong = strong
        self.bgr = bgr
        self.calibration = calibration
        self.with_maps = with_maps

    @property
    def min_score(self) -> float:
        """Predictions with this score or less have no effect."""
        return self.score if self.calibration is None else self.calibration.low

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read cfg.S4M and cfg.INPUT.FORMAT.

        Raises:
            ValueError: a number is out of its range, or matching is on without refinement.
        """
        s4m = cfg.S4M
        if s4m.MATCHING.ENABLED and not s4m.PR.ENABLED:
            raise ValueError("S4M.MATCHING.ENABLED needs SAM's answers: set S4M.PR.ENABLED.")
        return {
            "score": s4m.SELECTION.SCORE,
            "min_pixels": s4m.SELECTION.MIN_PIXELS,
            "num_points": s4m.PR.POINTS if s4m.PR.ENABLED else 0,
            "matching": MatchingThresholds(**_options(s4m.MATCHING)) if s4m.MATCHING.ENABLED else None,
            "mixing": _options(s4m.ARP) if s4m.ARP.ENABLED else None,
            "strong": {} if s4m.STRONG.ENABLED else None,
            "bgr": cfg.INPUT.FORMAT == "BGR",
            "calibration": ConfidenceCalibration(cfg) if s4m.CALIBRATION.ENABLED else None,
            "with_maps": s4m.BOUNDARY.ENABLED,
        }

    def __call__(
        self,
        weak: Sequence[dict[str, Any]],
        predictions: Sequence[Instances],
        segmenter: PromptableSegmenter | None = None,
        source: Source | None = None,
    ) -> tuple[list[dict[str, Any]], PseudoLabelRecord]:
        """Label, mix and augment a batch without changing the input.

        Random numbers depend on the image's seed and the step's name alone, so no step changes those of another.

        Args:
            weak: dicts with `image` (3, H, W) uint8 and, for repeatable random numbers, `seed` (int).
            predictions: the teacher's predictions on these views, with pred_boxes, scores, pred_classes and soft_masks
                (N, H, W).
            segmenter: the frozen SAM; None keeps the teacher's masks.
            source: embeddings of the un-augmented images; None lets SAM see the weak views.

        Returns:
            the weak dicts with the student's `image`, on the predictions' device, and `instances` (see `to_targets`;
            class -1 marks an ignored region); and the record of the batch.
        """
        seeded = [_seeded(entry) for entry in weak]
        targets, record = self.label(seeded, predictions, segmenter, source)
        images = [entry.image for entry in record.images]
        if self.mixing is not None:
            if len(weak) == 1:
                log_first_n(logging.WARNING, "S4M.ARP mixes nothing: each process has one unlabeled image a batch.")
            pairing = torch.Generator().manual_seed(derive_seed("pairs", *[entry["seed"] for entry in seeded]))
            images, targets = mix(
                images, targets, generator=pairing, generators=_generators(seeded, "paste"), **self.mixing
            )
        record.mixed = images
        if self.strong is not None:
            images = [
                strong_augment(image, bgr=self.bgr, generator=generator, **self.strong)
                for image, generator in zip(images, _generators(seeded, "strong"), strict=True)
            ]
        record.targets = _count_learned(targets)
        views = zip(weak, images, targets, strict=True)
        return [{**entry, "image": image, "instances": labels} for entry, image, labels in views], record

    def label(
        self,
        weak: Sequence[dict[str, Any]],
        predictions: Sequence[Instances],
        segmenter: PromptableSegmenter | None = None,
        source: Source | None = None,
    ) -> tuple[list[Instances], PseudoLabelRecord]:
        """Select and refine pseudo-labels in the weak views' frames, without mixing and strong augmentation."""
        weak = [_seeded(entry) for entry in weak]
        labels = self.refined(weak, predictions, segmenter, source)
        records = [_image_record(*parts) for parts in zip(weak, predictions, labels, strict=True)]
        targets = [to_targets(label, self.with_maps) for label in labels]
        if self.calibration is not None:
            calibrated = [self._calibrated(*parts) for parts in zip(predictions, labels, targets, records, strict=True)]
            targets, records = (list(parts) for parts in zip(*calibrated, strict=True))
        return targets, PseudoLabelRecord(records, _count_learned(targets))

    def refined(
        self,
        weak: Sequence[dict[str, Any]],
        predictions: Sequence[Instances],
        segmenter: PromptableSegmenter | None = None,
        source: Source | None = None,
    ) -> list[Instances]:
        """Return the selected predictions with their refined masks, the results of `select` and `refine`."""
        weak = [_seeded(entry) for entry in weak]
        images = [_image(entry, raw) for entry, raw in zip(weak, predictions, strict=True)]
        scores = [self.score if self.calibration is None else self.calibration.threshold_of(p) for p in predictions]
        selections = zip(predictions, scores, strict=True)
        labels = [select(raw, score=score, min_pixels=self.min_pixels) for raw, score in selections]
        if self.num_points == 0 or segmenter is None:
            return labels
        return refine(
            labels,
            [image.flip(0) if self.bgr else image for image in images],
            segmenter,
            num_points=self.num_points,
            generators=_generators(weak, "points"),
            source=source,
            matching=self.matching,
            with_logits=self.with_maps,
        )

    def _calibrated(
        self, predictions: Instances, labels: Instances, targets: Instances, record: ImageRecord
    ) -> tuple[Instances, ImageRecord]:
        """Weigh targets by confidence, turn those too unsure into ignored regions, and add this to the record."""
        confidence = self.calibration.confidence(labels)
        ignored = confidence < self.calibration.floor
        unsure = self.calibration.doubtful(predictions, labels, self.min_pixels)
        targets.gt_weights = confidence
        targets.gt_classes = torch.where(ignored, -1, targets.gt_classes)
        targets = join(targets, to_targets(unsure, self.with_maps))
        return targets, replace(record, confidence=confidence, ignored=ignored, doubtful=len(unsure))


def to_targets(labels: Instances, with_maps: bool = False) -> Instances:
    """Convert pseudo-labels to Detectron2's ground truth: gt_boxes, gt_classes, gt_masks (BitMasks), gt_weights of one.

    The maps are `gt_teacher_masks` and `gt_sam_masks` (N, H, W) float16 in [0, 1] and `gt_refined` (N,) bool, whether
    the mask is SAM's. Where SAM was not prompted, its map is the teacher's.
    """
    targets = Instances(
        labels.image_size,
        gt_boxes=labels.pred_boxes,
        gt_classes=labels.pred_classes,
        gt_masks=BitMasks(labels.pred_masks),
        gt_weights=labels.scores.new_ones(len(labels), dtype=torch.float32),
    )
    if with_maps:
        prompted = labels.has("sam_accepted")
        targets.gt_teacher_masks = labels.soft_masks.half()
        targets.gt_sam_masks = labels.sam_logits.sigmoid().half() if prompted else targets.gt_teacher_masks
        targets.gt_refined = labels.sam_accepted if prompted else torch.zeros_like(labels.scores, dtype=torch.bool)
    return targets


def _count_learned(targets: Sequence[Instances]) -> int:
    """Count the instances that are not ignored regions."""
    return sum(int((labels.gt_classes >= 0).sum()) for labels in targets)


def _options(node: CfgNode) -> dict[str, Any]:
    return {key.lower(): value for key, value in node.items() if key != "ENABLED"}


def _seeded(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the entry with a `seed`: its own, or one from torch's global generator."""
    return {**entry, "seed": int(entry["seed"]) if "seed" in entry else int(torch.randint(1 << 31, (1,)))}


def _generators(weak: Sequence[dict[str, Any]], step: str) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(derive_seed(entry["seed"], step)) for entry in weak]


def _image(entry: dict[str, Any], predictions: Instances) -> torch.Tensor:
    """Return the weak view on the predictions' device."""
    image = entry["image"]
    if tuple(image.shape[1:]) != tuple(predictions.image_size):
        name = entry.get("file_name", "an image")
        raise ValueError(
            f"{name}: the predictions are of {tuple(predictions.image_size)} pixels (height, width), "
            f"the weak view has {tuple(image.shape[1:])}."
        )
    return image.to(predictions.scores.device)


def _image_record(entry: dict[str, Any], predictions: Instances, labels: Instances) -> ImageRecord:
    scores = labels.scores
    fields = labels.get_fields()
    return ImageRecord(
        file_name=entry.get("file_name", ""),
        image=_image(entry, predictions),
        candidates=len(predictions),
        teacher_masks=fields.get("teacher_masks", labels.pred_masks),
        masks=labels.pred_masks,
        scores=scores,
        classes=labels.pred_classes,
        quality=fields.get("sam_quality", torch.zeros_like(scores)),
        accepted=fields.get("sam_accepted", torch.zeros_like(scores, dtype=torch.bool)),
        prompted="sam_accepted" in fields,
        match_outcome=fields.get("match_outcome"),
        over_segmented=fields.get("over_segmented"),
        agreement=fields.get("sam_agreement"),
    )
