"""From the teacher's predictions to what the student trains on: select, refine, mix, augment (S4M, stage 2)."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import BitMasks, Instances

from d2kit.rng import derive_seed
from s4m.pseudo_labels.copy_paste import mix
from s4m.pseudo_labels.record import ImageRecord, PseudoLabelRecord
from s4m.pseudo_labels.refinement import Source, refine
from s4m.pseudo_labels.selection import select
from s4m.pseudo_labels.strong_augmentation import strong_augment, strong_options
from s4m.sam import PromptableSegmenter


class PseudoLabeler:
    """Turns a weakly augmented batch and the teacher's predictions into a strongly augmented, labelled batch.

    Args:
        score, min_pixels: of `select`.
        num_points: positive points a mask for SAM; 0: no refinement.
        mixing: arguments of `mix` (fraction, min_area, dynamic, scale); None: no mixing.
        strong: arguments of `strong_augment`; None: the weak view stays.
        bgr: channel order of the images.
    """

    @configurable
    def __init__(
        self,
        *,
        score: float = 0.7,
        min_pixels: float = 5.0,
        num_points: int = 0,
        mixing: dict[str, Any] | None = None,
        strong: dict[str, Any] | None = None,
        bgr: bool = True,
    ):
        self.score = score
        self.min_pixels = min_pixels
        self.num_points = num_points
        self.mixing = mixing
        self.strong = strong
        self.bgr = bgr

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read cfg.S4M.SELECTION, PR, ARP, STRONG and cfg.INPUT.FORMAT."""
        s4m = cfg.S4M
        mixing = {
            "fraction": s4m.ARP.FRACTION,
            "min_area": s4m.ARP.MIN_AREA,
            "dynamic": s4m.ARP.DYNAMIC,
            "scale": s4m.ARP.SCALE,
        }
        return {
            "score": s4m.SELECTION.SCORE,
            "min_pixels": s4m.SELECTION.MIN_PIXELS,
            "num_points": s4m.PR.POINTS if s4m.PR.ENABLED else 0,
            "mixing": mixing if s4m.ARP.ENABLED else None,
            "strong": strong_options(cfg) if s4m.STRONG.ENABLED else None,
            "bgr": cfg.INPUT.FORMAT == "BGR",
        }

    def __call__(
        self,
        weak: Sequence[dict[str, Any]],
        predictions: Sequence[Instances],
        segmenter: PromptableSegmenter | None = None,
        source: Source | tuple | None = None,
    ) -> tuple[list[dict[str, Any]], PseudoLabelRecord]:
        """Label, mix and augment a batch; nothing of the input is changed.

        Every draw follows the image's "seed" and the step's name alone, so no step changes what another one draws.

        Args:
            weak: dicts with `image` (3, H, W) uint8 and, where draws are to be repeatable, `seed` (int).
            predictions: of the teacher on these views, with pred_boxes, scores, pred_classes and soft_masks (N, H, W).
            segmenter: the frozen SAM; None: the teacher's masks stay.
            source: see `refine`; None: SAM looks at the weak views.

        Returns:
            new dicts with the student's `image`, on the predictions' device, and `instances` (gt_boxes, gt_classes,
            gt_masks BitMasks, gt_weights), all other keys as they were; and the record of what was done.
        """
        seeds = [_seed(entry) for entry in weak]
        targets, record = self._label(weak, predictions, segmenter, source, seeds)
        images = [entry.image for entry in record.images]
        if self.mixing is not None:
            pairing = torch.Generator().manual_seed(derive_seed("pairs", *seeds))
            images, targets = mix(
                images, targets, generator=pairing, generators=_generators(seeds, "paste"), **self.mixing
            )
        if self.strong is not None:
            images = [
                strong_augment(image, bgr=self.bgr, generator=generator, **self.strong)
                for image, generator in zip(images, _generators(seeds, "strong"), strict=True)
            ]
        record.targets = sum(len(some) for some in targets)
        batch = [
            {**entry, "image": image, "instances": some}
            for entry, image, some in zip(weak, images, targets, strict=True)
        ]
        return batch, record

    def label(
        self,
        weak: Sequence[dict[str, Any]],
        predictions: Sequence[Instances],
        segmenter: PromptableSegmenter | None = None,
        source: Source | tuple | None = None,
    ) -> tuple[list[Instances], PseudoLabelRecord]:
        """The pseudo-labels alone, in the weak views' frames: select and refine, no mixing and no augmentation."""
        return self._label(weak, predictions, segmenter, source, [_seed(entry) for entry in weak])

    def _label(
        self,
        weak: Sequence[dict[str, Any]],
        predictions: Sequence[Instances],
        segmenter: PromptableSegmenter | None,
        source: Source | tuple | None,
        seeds: Sequence[int],
    ) -> tuple[list[Instances], PseudoLabelRecord]:
        images = [_image(entry, found) for entry, found in zip(weak, predictions, strict=True)]
        labels = [select(found, score=self.score, min_pixels=self.min_pixels) for found in predictions]
        asked = self.num_points > 0 and segmenter is not None
        if asked:
            labels = refine(
                labels,
                [image.flip(0) if self.bgr else image for image in images],
                segmenter,
                num_points=self.num_points,
                generators=_generators(seeds, "points"),
                source=source,
            )
        record = PseudoLabelRecord(
            [
                _image_record(entry, image, len(found), label, asked)
                for entry, image, found, label in zip(weak, images, predictions, labels, strict=True)
            ]
        )
        targets = [to_targets(label) for label in labels]
        record.targets = sum(len(some) for some in targets)
        return targets, record


def to_targets(labels: Instances) -> Instances:
    """Pseudo-labels as Detectron2's ground truth: gt_boxes, gt_classes, gt_masks (BitMasks), gt_weights of one."""
    return Instances(
        labels.image_size,
        gt_boxes=labels.pred_boxes,
        gt_classes=labels.pred_classes,
        gt_masks=BitMasks(labels.pred_masks),
        gt_weights=labels.scores.new_ones(len(labels), dtype=torch.float32),
    )


def _seed(entry: dict[str, Any]) -> int:
    """The sample's own seed, or one from torch's global generator."""
    return int(entry["seed"]) if "seed" in entry else int(torch.randint(1 << 31, (1,)))


def _generators(seeds: Sequence[int], step: str) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(derive_seed(seed, step)) for seed in seeds]


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
    )
