"""From the teacher's predictions to what the student trains on: select, refine, mix, augment (S4M, stage 2)."""

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
from s4m.pseudo_labels.matching import Guards
from s4m.pseudo_labels.record import ImageRecord, PseudoLabelRecord
from s4m.pseudo_labels.refinement import Source, refine
from s4m.pseudo_labels.selection import select
from s4m.pseudo_labels.strong_augmentation import strong_augment, strong_options
from s4m.ranges import require_range
from s4m.sam import PromptableSegmenter


class PseudoLabeler:
    """Turns a weakly augmented batch and the teacher's predictions into a strongly augmented, labeled batch.

    Args:
        score, min_pixels: of `select`.
        num_points: positive points a mask for SAM; 0: no refinement.
        guards: of the matching of SAM's candidates; None: the most trusted one is taken.
        mixing: arguments of `mix` (fraction, min_area, dynamic, scale); None: no mixing.
        strong: arguments of `strong_augment`; None: the weak view stays.
        bgr: channel order of the images.
        calibration: chooses the score of each class, weighs the pseudo-labels and tells which regions to ignore; None:
            `score` and equal weights.
        with_maps: the targets carry what the boundary-aware consistency needs.
    """

    @configurable
    def __init__(
        self,
        *,
        score: float = 0.7,
        min_pixels: float = 5.0,
        num_points: int = 0,
        guards: Guards | None = None,
        mixing: dict[str, Any] | None = None,
        strong: dict[str, Any] | None = None,
        bgr: bool = True,
        calibration: ConfidenceCalibration | None = None,
        with_maps: bool = False,
    ):
        self.score = score
        self.min_pixels = min_pixels
        self.num_points = num_points
        self.guards = guards
        self.mixing = mixing
        self.strong = strong
        self.bgr = bgr
        self.calibration = calibration
        self.with_maps = with_maps

    @property
    def min_score(self) -> float:
        """Least score that the teacher has to answer with."""
        return self.score if self.calibration is None else self.calibration.min_score

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read cfg.S4M.SELECTION, PR, MATCHING, ARP, STRONG, CALIBRATION, BOUNDARY and cfg.INPUT.FORMAT."""
        s4m = cfg.S4M
        if s4m.MATCHING.ENABLED and not s4m.PR.ENABLED:
            raise ValueError("S4M.MATCHING.ENABLED needs SAM's answers: set S4M.PR.ENABLED.")
        mixing = {key.lower(): value for key, value in s4m.ARP.items() if key != "ENABLED"}
        return {
            "score": s4m.SELECTION.SCORE,
            "min_pixels": s4m.SELECTION.MIN_PIXELS,
            "num_points": s4m.PR.POINTS if s4m.PR.ENABLED else 0,
            "guards": _guards(s4m.MATCHING) if s4m.MATCHING.ENABLED else None,
            "mixing": mixing if s4m.ARP.ENABLED else None,
            "strong": strong_options(cfg) if s4m.STRONG.ENABLED else None,
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
        """Label, mix and augment a batch; nothing of the input is changed.

        Every draw follows the image's "seed" and the step's name alone, so no step changes what another one draws.

        Args:
            weak: dicts with `image` (3, H, W) uint8 and, where draws are to be repeatable, `seed` (int).
            predictions: of the teacher on these views, with pred_boxes, scores, pred_classes and soft_masks (N, H, W).
            segmenter: the frozen SAM; None: the teacher's masks stay.
            source: see `refine`; None: SAM looks at the weak views.

        Returns:
            new dicts with the student's `image`, on the predictions' device, and `instances` (of `to_targets`; class -1
            marks an ignored region), all other keys as they were; and the record of what was done.
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
        if self.strong is not None:
            images = [
                strong_augment(image, bgr=self.bgr, generator=generator, **self.strong)
                for image, generator in zip(images, _generators(seeded, "strong"), strict=True)
            ]
        record.targets = _learned(targets)
        batch = [
            {**entry, "image": image, "instances": labels}
            for entry, image, labels in zip(weak, images, targets, strict=True)
        ]
        return batch, record

    def label(
        self,
        weak: Sequence[dict[str, Any]],
        predictions: Sequence[Instances],
        segmenter: PromptableSegmenter | None = None,
        source: Source | None = None,
    ) -> tuple[list[Instances], PseudoLabelRecord]:
        """The pseudo-labels alone, in the weak views' frames: select and refine, no mixing and no augmentation."""
        weak = [_seeded(entry) for entry in weak]
        images = [_image(entry, raw) for entry, raw in zip(weak, predictions, strict=True)]
        labels = self.refined(weak, predictions, segmenter, source)
        asked = self._asks(segmenter)
        records = [
            _image_record(entry, image, len(raw), label, asked)
            for entry, image, raw, label in zip(weak, images, predictions, labels, strict=True)
        ]
        targets = [to_targets(label, self.with_maps) for label in labels]
        if self.calibration is not None:
            calibrated = [self._calibrated(*parts) for parts in zip(predictions, labels, targets, records, strict=True)]
            targets, records = (list(parts) for parts in zip(*calibrated, strict=True))
        record = PseudoLabelRecord(records)
        record.targets = _learned(targets)
        return targets, record

    def refined(
        self,
        weak: Sequence[dict[str, Any]],
        predictions: Sequence[Instances],
        segmenter: PromptableSegmenter | None = None,
        source: Source | None = None,
    ) -> list[Instances]:
        """The selected predictions with their refined masks, as `select` and `refine` give them."""
        weak = [_seeded(entry) for entry in weak]
        labels = [select(raw, score=self._score(raw), min_pixels=self.min_pixels) for raw in predictions]
        if not self._asks(segmenter):
            return labels
        images = [_image(entry, raw) for entry, raw in zip(weak, predictions, strict=True)]
        return refine(
            labels,
            [image.flip(0) if self.bgr else image for image in images],
            segmenter,
            num_points=self.num_points,
            generators=_generators(weak, "points"),
            source=source,
            guards=self.guards,
            with_logits=self.with_maps,
        )

    def _asks(self, segmenter: PromptableSegmenter | None) -> bool:
        return self.num_points > 0 and segmenter is not None

    def _score(self, predictions: Instances) -> float | torch.Tensor:
        """Least score of a pseudo-label: one, or one for each prediction."""
        return self.score if self.calibration is None else self.calibration.threshold_of(predictions)

    def _calibrated(
        self, predictions: Instances, labels: Instances, targets: Instances, record: ImageRecord
    ) -> tuple[Instances, ImageRecord]:
        """Targets weighted by confidence, with what is too unsure as ignored regions; and the record that says so."""
        confidence = self.calibration.confidence(labels)
        ignored = confidence < self.calibration.floor
        unsure = self.calibration.doubtful(predictions, labels, self.min_pixels)
        targets.gt_weights = confidence
        targets.gt_classes = torch.where(ignored, -1, targets.gt_classes)
        targets = join(targets, to_targets(unsure, self.with_maps))
        return targets, replace(record, confidence=confidence, ignored=ignored, doubtful=len(unsure))


def to_targets(labels: Instances, with_maps: bool = False) -> Instances:
    """Pseudo-labels as Detectron2's ground truth: gt_boxes, gt_classes, gt_masks (BitMasks), gt_weights of one.

    With maps also `gt_teacher_masks` and `gt_sam_masks` (N, H, W) float16 in [0, 1] and `gt_refined` (N,) bool, whether
    the mask is SAM's; where SAM was not asked its map is the teacher's.
    """
    targets = Instances(
        labels.image_size,
        gt_boxes=labels.pred_boxes,
        gt_classes=labels.pred_classes,
        gt_masks=BitMasks(labels.pred_masks),
        gt_weights=labels.scores.new_ones(len(labels), dtype=torch.float32),
    )
    if with_maps:
        asked = labels.has("sam_accepted")
        targets.gt_teacher_masks = labels.soft_masks.half()
        targets.gt_sam_masks = labels.sam_logits.sigmoid().half() if asked else targets.gt_teacher_masks
        targets.gt_refined = labels.sam_accepted if asked else torch.zeros_like(labels.scores, dtype=torch.bool)
    return targets


def _learned(targets: Sequence[Instances]) -> int:
    """Instances that are no ignored regions."""
    return sum(int((labels.gt_classes >= 0).sum()) for labels in targets)


def _guards(matching: CfgNode) -> Guards:
    """The keys of S4M.MATCHING as arguments; ValueError names a number out of its range."""
    for name in ("MIN_IOU", "PART", "DUPLICATE"):
        require_range(f"S4M.MATCHING.{name}", matching[name], high=1)
    require_range("S4M.MATCHING.LEAK", matching.LEAK)
    return Guards(**{key.lower(): value for key, value in matching.items() if key != "ENABLED"})


def _seeded(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with a `seed`: the sample's own, or one from torch's global generator."""
    return {**entry, "seed": int(entry["seed"]) if "seed" in entry else int(torch.randint(1 << 31, (1,)))}


def _generators(weak: Sequence[dict[str, Any]], step: str) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(derive_seed(entry["seed"], step)) for entry in weak]


def _image(entry: dict[str, Any], predictions: Instances) -> torch.Tensor:
    """The weak view on the predictions' device."""
    image = entry["image"]
    if tuple(image.shape[1:]) != tuple(predictions.image_size):
        name = entry.get("file_name", "an image")
        raise ValueError(
            f"{name}: the predictions are of {tuple(predictions.image_size)} pixels (height, width), "
            f"the weak view has {tuple(image.shape[1:])}."
        )
    return image.to(predictions.scores.device)


def _image_record(
    entry: dict[str, Any], image: torch.Tensor, candidates: int, labels: Instances, asked: bool
) -> ImageRecord:
    scores = labels.scores
    return ImageRecord(
        file_name=entry.get("file_name", ""),
        image=image,
        candidates=candidates,
        teacher_masks=labels.teacher_masks if asked else labels.pred_masks,
        masks=labels.pred_masks,
        scores=scores,
        classes=labels.pred_classes,
        quality=labels.sam_quality if asked else torch.zeros_like(scores),
        accepted=labels.sam_accepted if asked else torch.zeros_like(scores, dtype=torch.bool),
        asked=asked,
        match_outcome=labels.get_fields().get("match_outcome"),
        over_segmented=labels.get_fields().get("over_segmented"),
    )
