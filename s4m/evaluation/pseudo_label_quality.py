"""The quality of pseudo-labels is measured on annotated images, before and after refinement by SAM."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils import comm
from torch.nn import functional as F

from d2kit.rng import derive_seed
from s4m.evaluation.reliability import Reliability
from s4m.pseudo_labels.masks import class_iou, unjudged
from s4m.pseudo_labels.matching import Outcome
from s4m.pseudo_labels.pipeline import PseudoLabeler
from s4m.pseudo_labels.record import ImageRecord, match_counts, match_rates
from s4m.sam import PromptableSegmenter

_MATCH_IOU = 0.5  # A pseudo-label and a ground truth match if their IoU is at least this.
_COLUMNS = ("labels", "truths", "refined", "rejected", "hits_before", "hits_after", "iou_before", "iou_after")


def match_greedily(iou: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Match pseudo-labels to ground truth one to one; the pseudo-label with the best score chooses first.

    Args:
        iou: (N, M), zero where the classes differ.
        scores: (N,).

    Returns:
        (N,) int64 index of the matched ground truth, -1 for none, on the CPU.
    """
    table = F.pad(iou.detach().cpu(), (0, 1))  # The added column of zeros gives a maximum where there is no truth.
    matches = torch.full((len(table),), -1, dtype=torch.int64)
    for index in scores.detach().cpu().argsort(descending=True, stable=True).tolist():
        best, truth = table[index].max(dim=0)
        if best >= _MATCH_IOU:
            matches[index] = truth
            table[:, truth] = -1.0
    return matches


class PseudoLabelQuality:
    """Accumulates precision, recall and mean IoU of pseudo-labels over images and, in `compute`, over processes.

    A pseudo-label is right if its mask overlaps a ground truth of its class with an IoU of 0.5 or more, and no
    pseudo-label with a better score took that one. The mean IoU is over the same pseudo-labels before and after SAM:
    each counts with the ground truth of its class that it overlaps most, or with zero.

    Pseudo-labels that calibration ignores do not count, and neither do those that lie in void or crowds of their class
    before and after SAM (`unjudged`): nobody knows whether they are right, and COCO's AP leaves them out, too.

    Args:
        class_names: thing classes by contiguous index.
        reliability: it compares scores and confidences of all pseudo-labels with their IoU, if it is given.
    """

    def __init__(self, class_names: Sequence[str], reliability: Reliability | None = None):
        self.class_names = list(class_names)
        self.reliability = reliability
        self._totals = torch.zeros(len(self.class_names), len(_COLUMNS), dtype=torch.float64)
        self._match_counts = torch.zeros(len(Outcome) + 1, dtype=torch.int64)
        self._images = 0

    def add(self, record: ImageRecord, truth: Instances, crowds: Instances | None = None) -> None:
        """Add an image.

        Args:
            record: pseudo-labels of the image.
            truth: annotations in the same frame, with gt_classes (-1 marks void) and gt_masks (BitMasks or
                PolygonMasks).
            crowds: crowds of the image, or None.
        """
        self._images += 1
        counts = match_counts([record])
        if counts is not None:
            self._match_counts += counts
        masks = {"before": record.teacher_masks, "after": record.masks}
        ious = {when: class_iou(masks[when], record.classes, truth) for when in masks}
        unknown = {when: unjudged(masks[when], record.classes, ious[when], truth, crowds) for when in masks}
        judged = ~(unknown["before"] & unknown["after"])
        if record.ignored is not None:
            judged &= ~record.ignored
        values = {"labels": judged, "refined": judged & record.accepted}
        values["rejected"] = judged & ~record.accepted & record.prompted
        for when, iou in ious.items():
            best = F.pad(iou, (0, 1)).amax(dim=1)
            values[f"hits_{when}"] = match_greedily(iou * judged[:, None], record.scores) >= 0
            values[f"iou_{when}"] = best * judged
        if self.reliability is not None and record.confidence is not None:
            confidences = {"class score": record.scores, "calibrated confidence": record.confidence}
            known = ~unknown["after"]
            self.reliability.update({name: value[known] for name, value in confidences.items()}, best[known])
        for name, value in values.items():
            self._add_to(name, record.classes, value)
        real = truth.gt_classes[truth.gt_classes >= 0]
        self._add_to("truths", real, torch.ones_like(real))

    def _add_to(self, column: str, classes: torch.Tensor, values: torch.Tensor) -> None:
        self._totals[:, _COLUMNS.index(column)].index_add_(0, classes.cpu(), values.detach().cpu().double())

    def compute(self) -> dict[str, float]:
        """Return the figures of all images of all processes, which must all call this.

        Returns:
            `{before,after}/{precision,recall,iou}`, the counts `{labels,truths,refined,rejected}` for an image, and
            all of these as `{class name}/...` for each class that occurs. Fractions of nothing are zero. If SAM's masks
            were matched to instances, there is also `match/...` of `match_rates`.
        """
        gathered = comm.all_gather((self._totals, self._images, self._match_counts))
        totals, images, counts = (sum(parts) for parts in zip(*gathered, strict=True))
        result = _figures(totals.sum(dim=0), images)
        for name, row in zip(self.class_names, totals, strict=True):
            if row.any():
                result.update({f"{name}/{key}": value for key, value in _figures(row, images).items()})
        return {**result, **(match_rates(counts, "match/") if counts.any() else {})}


def _figures(row: torch.Tensor, images: int) -> dict[str, float]:
    value = dict(zip(_COLUMNS, row.tolist(), strict=True))
    result = {name: value[name] / max(images, 1) for name in ("labels", "truths", "refined", "rejected")}
    for when in ("before", "after"):
        result[f"{when}/precision"] = value[f"hits_{when}"] / max(value["labels"], 1)
        result[f"{when}/recall"] = value[f"hits_{when}"] / max(value["truths"], 1)
        result[f"{when}/iou"] = value[f"iou_{when}"] / max(value["labels"], 1)
    return result


def evaluate_pseudo_labels(
    pairs: Iterable[tuple[dict[str, Any], Instances]],
    labeler: PseudoLabeler,
    segmenter: PromptableSegmenter | None,
    class_names: Sequence[str],
    reliability: Reliability | None = None,
) -> tuple[dict[str, float], ImageRecord | None]:
    """Make pseudo-labels of annotated images and measure them.

    The position of an image seeds its random numbers, so the figures repeat and no global generator is touched.

    Args:
        pairs: for each image a dict with `image` (3, H, W) uint8, the annotations `instances` in the same frame and,
            if there are any, `crowds`; and the teacher's predictions. A generator keeps one image at a time.
        labeler: the labeler that makes the pseudo-labels.
        segmenter: the frozen SAM; None keeps the teacher's masks.
        class_names: thing classes by contiguous index.
        reliability: it gets the pseudo-labels whose confidence is calibrated.

    Returns:
        the figures of `PseudoLabelQuality.compute`; and the record of the last image with a pseudo-label, or None.
    """
    quality = PseudoLabelQuality(class_names, reliability)
    example = None
    for position, (entry, predictions) in enumerate(pairs):
        weak = {**entry, "seed": derive_seed("pseudo-label quality", position)}
        record = labeler.label([weak], [predictions], segmenter)[1].images[0]
        quality.add(record, entry["instances"], entry.get("crowds"))
        example = record if record.selected else example
    return quality.compute(), example
