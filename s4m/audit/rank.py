"""Given labels are compared with what a trained network finds, and ranked by how much speaks against them."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from scipy.optimize import linear_sum_assignment

MISSED = "network finds nothing"
CLASS = "network says another class"
OUTLINE = "network draws another outline"
MERGED = "network finds several objects"
UNLABELED = "nobody labeled it"

_SAME = 0.5  # Predictions of a greater IoU are of one object.
_TOUCHES = 0.1  # least IoU of a label and the prediction that it is compared with
_INSIDE = 0.75  # share of a prediction inside of the label whose part it is


class Finding(NamedTuple):
    """A label or an object without a label, and what speaks against it.

    Attributes:
        doubt: 0 to 1, comparable between reasons.
        reasons: MISSED, CLASS, OUTLINE, MERGED or UNLABELED; the weightiest comes first.
        given: position of the label; None for an object that nobody labeled.
        predicted: position of the prediction that speaks against the label; None where there is none.
    """

    doubt: float
    reasons: tuple[str, ...]
    given: int | None
    predicted: int | None


def rank(given: Sequence[dict], predicted: Sequence[dict]) -> list[Finding]:
    """Rank labels, and objects that nobody labeled, by how much a network's predictions speak against them.

    Each label has one finding, and so has each prediction that no label is like. A network errs, too. Therefore a
    difference counts by the score of the prediction, and

    - another class by how far the score of this class exceeds that of the label's,
    - another outline by how far the IoU lies under what is usual for labels of this size,
    - several objects by the score of the second one and by how much of the label they fill,
    - an object without a label by the share of it that no label covers,
    - a missed label little, because networks miss more objects than people label in vain.

    Args:
        given: annotations of COCO with `image_id`, `category_id` and `segmentation`, an RLE with compressed counts.
        predicted: results of COCO with the same keys and `score`, 0 to 1.

    Returns:
        findings in the order of falling doubt.
    """
    images: dict = defaultdict(lambda: ([], []))
    for side, annotations in enumerate((given, predicted)):
        for position, annotation in enumerate(annotations):
            images[annotation["image_id"]][side].append(position)
    comparisons = [_Comparison(given, predicted, *positions) for positions in images.values()]
    usual = _UsualOverlap([pair for comparison in comparisons for pair in comparison.overlaps()])
    findings = [finding for comparison in comparisons for finding in comparison.findings(usual)]
    return sorted(findings, key=lambda finding: -finding.doubt)


class _UsualOverlap:
    """The IoU of labels and predictions that is usual at a size of labels: most labels are right.

    Args:
        overlaps: areas of labels in pixels, and IoU.
    """

    def __init__(self, overlaps: Sequence[tuple[float, float]]) -> None:
        areas, ious = np.array(overlaps, float).reshape(-1, 2).T
        groups = min(8, len(areas) // 30) or 1
        self._limits = np.quantile(areas, np.linspace(0, 1, groups + 1)[1:-1]) if len(areas) else np.zeros(0)
        group = np.searchsorted(self._limits, areas)
        self._medians = np.array([np.median(ious[group == n]) if (group == n).any() else 0.8 for n in range(groups)])

    def strangeness(self, area: float, iou: float) -> float:
        """Return 0 where the IoU is usual or more, 1 where it is none of the usual."""
        median = self._medians[np.searchsorted(self._limits, area)]
        return float(np.clip((median - iou) / max(median, 0.2), 0, 1))


class _Comparison:
    """The labels and the predictions of one image."""

    def __init__(self, given, predicted, labels: Sequence[int], objects: Sequence[int]) -> None:
        self._given, self._predicted = given, predicted
        self._labels = list(labels)
        self._objects = sorted(objects, key=lambda position: -predicted[position]["score"])
        label_masks = [given[position]["segmentation"] for position in self._labels]
        masks = [predicted[position]["segmentation"] for position in self._objects]
        self._score = np.array([predicted[position]["score"] for position in self._objects], float)
        self._class = np.array([predicted[position]["category_id"] for position in self._objects])
        self._area = np.array([mask_util.area(mask) for mask in label_masks], float)
        iou, same = _iou(masks, label_masks), _iou(masks, masks)
        self._iou, self._inside, self._same = iou, _iou(masks, label_masks, inside=True), same
        self._kept = [n for n in range(len(masks)) if not any(same[n, m] > _SAME for m in range(n))]
        covering = mask_util.merge(label_masks) if label_masks else None
        self._cover = _iou(masks, [covering], inside=True)[:, 0] if covering else np.zeros(len(masks))
        weight = (iou * self._score[:, None])[self._kept]
        rows, columns = linear_sum_assignment(-weight)
        pairs = [(self._kept[row], column) for row, column in zip(rows, columns, strict=True)]
        self._match = {column: row for row, column in pairs if iou[row, column] >= _TOUCHES}

    def overlaps(self) -> list[tuple[float, float]]:
        """Return the area and the IoU of each label that a prediction is like."""
        return [(self._area[column], self._iou[row, column]) for column, row in self._match.items()]

    def findings(self, usual: _UsualOverlap) -> list[Finding]:
        """Return the findings of the image."""
        found = [self._about_label(column, usual) for column in range(len(self._labels))]
        matched = set(self._match.values())
        free = [row for row in self._kept if row not in matched]
        return found + [
            Finding(float(self._score[row] * (1 - self._cover[row])), (UNLABELED,), None, self._objects[row])
            for row in free
            if self._cover[row] < _SAME
        ]

    def _about_label(self, column: int, usual: _UsualOverlap) -> Finding:
        position = self._labels[column]
        row = self._match.get(column)
        if row is None:
            return Finding(0.2, (MISSED,), position, None)
        score, iou = self._score[row], self._iou[row, column]
        evidence = {
            CLASS: self._class_margin(row, self._given[position]["category_id"]) * min(1, iou / 0.5),
            OUTLINE: score * usual.strangeness(self._area[column], iou),
            MERGED: self._parts(column),
        }
        reasons = sorted((reason for reason in evidence if evidence[reason] > 0.1), key=lambda r: -evidence[r])
        doubt = 1 - np.prod([1 - value for value in evidence.values()])
        return Finding(float(doubt), tuple(reasons), position, self._objects[row])

    def _class_margin(self, row: int, label_class: int) -> float:
        """Return by how much the score of another class at a place exceeds that of the label's class, at least 0."""
        here = self._same[row] > _SAME
        own = max(self._score[here & (self._class == label_class)], default=0.0)
        return max(0.0, self._score[row] - own) if self._class[row] != label_class else 0.0

    def _parts(self, column: int) -> float:
        """Return how much speaks for several objects in one label."""
        rows = [row for row in self._kept if self._inside[row, column] >= _INSIDE]
        if len(rows) < 2:
            return 0.0
        whole = max(self._score[self._iou[:, column] > 0.7], default=0.0)
        return max(0.0, self._score[rows[1]] - whole)


def _iou(first: Sequence[dict], second: Sequence[dict], inside: bool = False) -> np.ndarray:
    """Return the (N, M) IoU of RLE masks, or the share of the first ones that lies inside of the second ones."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return mask_util.iou(list(first), list(second), [int(inside)] * len(second))
