"""How good pseudo-labels are, measured on images whose annotations are known, before and after SAM."""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from detectron2.utils import comm

from d2kit.rng import derive_seed
from s4m.evaluation.reliability import Reliability
from s4m.pseudo_labels.masks import class_iou, unjudged
from s4m.pseudo_labels.matching import Outcome
from s4m.pseudo_labels.pipeline import PseudoLabeler
from s4m.pseudo_labels.record import ImageRecord, match_counts, match_rates
from s4m.sam import PromptableSegmenter

_LEAST_IOU = 0.5  # of a match of pseudo-label and ground truth, inclusive
_COLUMNS = ("labels", "truths", "refined", "rejected", "hits_before", "hits_after", "iou_before", "iou_after")


def match_greedily(iou: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """One-to-one matches of pseudo-labels to ground truth, the best scored choosing first.

    Args:
        iou: (N, M), zero where the classes differ.
        scores: (N,).

    Returns:
        (N,) int64 index of the matched ground truth, -1 for none, on the CPU.
    """
    table = iou.detach().cpu().clone()
    matches = torch.full((len(table),), -1, dtype=torch.int64)
    if not table.numel():
        return matches
    for index in scores.detach().cpu().argsort(descending=True, stable=True).tolist():
        best, truth = table[index].max(dim=0)
        if best >= _LEAST_IOU:
            matches[index] = truth
            table[:, truth] = -1.0
    return matches


class PseudoLabelQuality:
    """Accumulates precision, recall and mean IoU of pseudo-labels over images, and over processes when computed.

    A pseudo-label is right when its mask overlaps a ground truth of its class, not taken by a better scored one, with
    an IoU of 0.5 or more. The mean IoU is that of every pseudo-label with the ground truth of its class that
    it overlaps most, zero where there is none: over the same pseudo-labels before and after SAM, so comparable.

    Those that calibration ignores count as if they were not there, and so do those in void or crowds of their class
    (`unjudged`, before and after SAM): nobody knows whether they are right, and COCO's AP leaves them out, too.

    Args:
        class_names: thing classes, by contiguous index.
        reliability: compares the scores and confidences of all pseudo-labels with their IoU; None: nothing does.
    """

    def __init__(self, class_names: Sequence[str], reliability: Reliability | None = None):
        self.class_names = list(class_names)
        self.reliability = reliability
        self._totals = torch.zeros(len(self.class_names), len(_COLUMNS), dtype=torch.float64)
        self._matches = torch.zeros(len(Outcome) + 1, dtype=torch.int64)
        self._images = 0

    def add(self, record: ImageRecord, truth: Instances, crowds: Instances | None = None) -> None:
        """Add an image.

        Args:
            record: of its pseudo-labels.
            truth: its annotations in the same frame, with gt_classes (-1 marks void) and gt_masks (BitMasks or
                PolygonMasks).
            crowds: its crowds; None: there are none.
        """
        self._images += 1
        counts = match_counts([record])
        if counts is not None:
            self._matches += counts
        masks = {"before": record.teacher_masks, "after": record.masks}
        overlaps = {name: class_iou(kind, record.classes, truth) for name, kind in masks.items()}
        unknown = {name: unjudged(kind, record.classes, overlaps[name], truth, crowds) for name, kind in masks.items()}
        used = torch.ones_like(record.accepted) if record.ignored is None else ~record.ignored
        used = used & ~(unknown["before"] & unknown["after"])
        values = {"labels": used, "refined": record.accepted & used}
        values["rejected"] = ~record.accepted & used & record.prompted
        for name, iou in overlaps.items():
            best = iou.amax(dim=1) if iou.shape[1] else iou.new_zeros(len(iou))
            values[f"hits_{name}"] = match_greedily(iou * used[:, None], record.scores) >= 0
            values[f"iou_{name}"] = best * used
        if self.reliability is not None and record.confidence is not None:
            confidences = {"class score": record.scores, "calibrated confidence": record.confidence}
            known = ~unknown["after"]
            self.reliability.update({name: value[known] for name, value in confidences.items()}, best[known])
        classes = record.classes.cpu()
        for name, value in values.items():
            self._totals[:, _COLUMNS.index(name)].index_add_(0, classes, value.detach().cpu().double())
        real = truth.gt_classes[truth.gt_classes >= 0].cpu()
        self._totals[:, _COLUMNS.index("truths")].index_add_(0, real, torch.ones(len(real), dtype=torch.float64))

    def compute(self, prefix: str = "pseudo_labels/") -> dict[str, float]:
        """The figures of all images of all processes, which must all call this.

        Returns:
            `{prefix}{before,after}/{precision,recall,iou}`, counts `{prefix}{labels,truths,refined,rejected}` an image,
            and `{prefix}{class name}/...` for each class that occurs. Fractions of nothing are zero. Where SAM's masks
            were matched to instances, `{prefix}match/...` of `match_rates`.
        """
        gathered = comm.all_gather((self._totals, self._images, self._matches))
        totals, images, matches = (sum(item[i] for item in gathered) for i in range(3))
        result = _figures(totals.sum(dim=0), prefix, images)
        for name, row in zip(self.class_names, totals, strict=True):
            if row.any():
                result.update(_figures(row, f"{prefix}{name}/", images))
        return {**result, **(match_rates(matches, f"{prefix}match/") if matches.any() else {})}


def _figures(row: torch.Tensor, prefix: str, images: int) -> dict[str, float]:
    value = dict(zip(_COLUMNS, row.tolist(), strict=True))
    result = {prefix + name: value[name] / max(images, 1) for name in ("labels", "truths", "refined", "rejected")}
    for when in ("before", "after"):
        result[f"{prefix}{when}/precision"] = value[f"hits_{when}"] / max(value["labels"], 1)
        result[f"{prefix}{when}/recall"] = value[f"hits_{when}"] / max(value["truths"], 1)
        result[f"{prefix}{when}/iou"] = value[f"iou_{when}"] / max(value["labels"], 1)
    return result


def evaluate_pseudo_labels(
    pairs: Iterable[tuple[dict[str, Any], Instances]],
    labeler: PseudoLabeler,
    segmenter: PromptableSegmenter | None,
    class_names: Sequence[str],
    *,
    prefix: str = "pseudo_labels/",
    reliability: Reliability | None = None,
) -> tuple[dict[str, float], ImageRecord | None]:
    """Make pseudo-labels of annotated images and measure them.

    An image without a `seed` gets one by its position, so that the figures repeat and no global generator is touched.

    Args:
        pairs: of each image its dict, with `image` (3, H, W) uint8 and the annotations `instances` in the same frame
            (`crowds` too, if any), and the teacher's predictions on it. A generator keeps one image at a time.
        labeler: what makes the pseudo-labels.
        segmenter: the frozen SAM; None: the teacher's masks stay.
        class_names: thing classes, by contiguous index.
        reliability: filled with the images' pseudo-labels where their confidence is calibrated.

    Returns:
        the figures of `PseudoLabelQuality.compute`, and the record of the last image that had a pseudo-label (None if
        no image had one), for an overlay.
    """
    quality, example = PseudoLabelQuality(class_names, reliability), None
    for position, (entry, predictions) in enumerate(pairs):
        weak = {name: value for name, value in entry.items() if name != "instances"}
        weak.setdefault("seed", derive_seed("pseudo-label quality", position))
        record = labeler.label([weak], [predictions], segmenter)[1].images[0]
        quality.add(record, entry["instances"], entry.get("crowds"))
        example = record if record.selected else example
    return quality.compute(prefix), example


def draw_overlay(
    image: np.ndarray,
    teacher_masks: np.ndarray | torch.Tensor,
    refined_masks: np.ndarray | torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    *,
    class_names: Sequence[str] | None = None,
    scores: Sequence[float] | torch.Tensor | None = None,
    gap: int = 4,
) -> np.ndarray:
    """Pseudo-labels side by side, the teacher's masks at the left, SAM's at the right, one color an instance.

    Args:
        image: (H, W, 3) uint8 RGB.
        teacher_masks, refined_masks: (N, H, W) bool.
        classes: (N,) contiguous class indices.
        class_names: written at each instance; without them the index is.
        scores: (N,), written behind the class.
        gap: white columns between the two.

    Returns:
        (H, 2 * W + gap, 3) uint8 RGB.
    """
    texts = [class_names[int(c)] if class_names else str(int(c)) for c in classes]
    if scores is not None:
        texts = [f"{text} {float(score):.2f}" for text, score in zip(texts, scores, strict=True)]
    halves = [_paint(image, torch.as_tensor(masks).cpu().numpy(), texts) for masks in (teacher_masks, refined_masks)]
    return np.concatenate([halves[0], np.full((len(image), gap, 3), 255, np.uint8), halves[1]], axis=1)


def _color(index: int) -> tuple[int, int, int]:
    """Well separated hues: the golden ratio of the circle apart."""
    hsv = np.uint8([[[int(index * 0.618034 * 180) % 180, 200, 255]]])
    return tuple(int(c) for c in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])


def _paint(image: np.ndarray, masks: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    canvas = np.ascontiguousarray(image).copy()
    scale = max(0.3, min(image.shape[:2]) / 1000)
    for index, mask in enumerate(masks):
        canvas[mask] = (0.55 * canvas[mask] + 0.45 * np.array(_color(index))).astype(np.uint8)
    for index, (mask, text) in enumerate(zip(masks, texts, strict=True)):
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outline, -1, _color(index), 1)
        rows, columns = np.nonzero(mask)
        if len(rows):
            corner = int(columns.min()), int(min(max(rows.min(), 10 * scale / 0.3), len(canvas) - 1))
            cv2.putText(canvas, text, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 2, cv2.LINE_AA)
            cv2.putText(canvas, text, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas
