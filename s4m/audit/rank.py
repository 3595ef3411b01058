"""Given labels are compared with what a trained network finds, and ranked by how much speaks against them."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import HuberRegressor, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from d2kit.audit.doubts import told, total

MISSED = "network finds nothing"
CLASS = "network says another class"
OUTLINE = "network draws another outline"
MERGED = "network finds several objects"
UNLABELED = "nobody labeled it"

_SAME = 0.5  # Predictions of a greater IoU are of one object.
_TOUCHES = 0.1  # least IoU of a label and the prediction that it is compared with
_WEIGHTS = {CLASS: 1.0, OUTLINE: 1.0, MERGED: 1.0, UNLABELED: 1.0, MISSED: 0.15}
_LEAST_TOLD = 0.02  # A reason that weighs less is not told.
_HALF = 25.0  # place among the evidence of one reason at which it counts half
_PRIOR = 10.0  # labels that the agreement in the whole data counts as, beside those of an image
_ALIKE, _LIKELY = 0.8, 5.0  # agreement before anything is seen, and how many labels it counts as
_TRUST = 2  # power of the agreement in the rest of the image, by which evidence counts
_WHOLE = 0.7  # IoU above which a prediction is the whole label
_APART = 0.1  # IoU below which two parts do not overlap
_LARGE = 0.25  # share of a label from which a part of it is large
_LEAST_CASES = 30  # from which on the network's habits are measured
_STRANGE = 12.0  # usual deviations
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
    - another outline by how far the IoU lies under what the network reaches at labels of this size, with neighbors like
      these and at this score,
    - several objects by the score of the second one in the label, and by how much of the label they fill,
    - an object without a label by the share of it that no label covers,
    - a missed label by how rarely the network misses labels of this size with neighbors like these. It counts less,
      because networks miss more objects than people label in vain.

    All of this counts by how well labels and predictions agree in the rest of the image. The doubt falls with the place
    of the evidence among all evidence of its reason, so that no reason fills the first rows alone: what a network gets
    wrong often takes many places.

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
    usual = _Usual(comparisons)
    return _ranked([case for comparison in comparisons for case in comparison.cases(usual)])


def _ranked(cases: Sequence[tuple[int | None, int | None, dict[str, float]]]) -> list[Finding]:
    """Return the findings of labels and predictions with what speaks against them by reason."""
    doubts = np.zeros((len(cases), len(_WEIGHTS)))
    for column, (reason, weight) in enumerate(_WEIGHTS.items()):
        values = np.array([evidence.get(reason, 0.0) for _, _, evidence in cases])
        places = np.empty(len(cases))
        places[np.argsort(-values, kind="stable")] = np.arange(len(cases))
        doubts[:, column] = weight * np.sqrt(values) / (1 + places / _HALF)
    findings = [
        Finding(float(doubt), told(values, list(_WEIGHTS), _LEAST_TOLD), label, prediction)
        for (label, prediction, _), values, doubt in zip(cases, doubts, total(doubts), strict=True)
    ]
    return sorted(findings, key=lambda finding: -finding.doubt)


class _Usual:
    """What is usual of a network on this data, told by the labels, most of which are right."""

    def __init__(self, comparisons: Sequence["_Comparison"]) -> None:
        alike, count = np.sum([comparison.agreement() for comparison in comparisons], axis=0) if comparisons else (0, 0)
        self.agreement = (alike + _ALIKE * _LIKELY) / (count + _LIKELY)
        self.is_found = _Chance([case for comparison in comparisons for case in comparison.found_cases()])
        self.overlap = _Overlap([case for comparison in comparisons for case in comparison.overlap_cases()])


class _Chance:
    """The chance that a case is true, by a logistic regression on its figures."""

    def __init__(self, cases: Sequence[tuple[Sequence[float], bool]]) -> None:
        truths = [truth for _, truth in cases]
        self._model = None
        self._constant = (sum(truths) + 1) / (len(truths) + 2)
        if len(cases) >= _LEAST_CASES and 0 < sum(truths) < len(truths):
            self._model = make_pipeline(StandardScaler(), LogisticRegression())
            self._model.fit(np.array([figures for figures, _ in cases]), truths)

    def __call__(self, figures: Sequence[float]) -> float:
        """Return the chance of a case."""
        return self._constant if self._model is None else float(self._model.predict_proba([figures])[0, 1])


class _Overlap:
    """The IoU of labels and predictions that is usual for labels of a size and predictions of a score."""

    def __init__(self, cases: Sequence[tuple[Sequence[float], float]]) -> None:
        self._model = None
        if len(cases) >= _LEAST_CASES:
            figures, ious = (np.array(part, float) for part in zip(*cases, strict=True))
            self._model = make_pipeline(StandardScaler(), HuberRegressor()).fit(figures, ious)
            self._spread = max(float(np.median(np.abs(ious - self._model.predict(figures)))), 0.02)

    def strangeness(self, figures: Sequence[float], iou: float) -> float:
        """Return the chance, 0 to 1, that an IoU as low as this is the label's fault."""
        if self._model is None:
            usual, spread = 0.8, 0.06
        else:
            usual, spread = float(self._model.predict([figures])[0]), self._spread
        return float(np.clip((usual - iou) / spread / _STRANGE, 0, 1))


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
        self._label_class = np.array([given[position]["category_id"] for position in self._labels])
        self._area = np.maximum([mask_util.area(mask) for mask in label_masks], 1.0)
        self._iou, self._same = _iou(masks, label_masks), _iou(masks, masks)
        self._inside = _iou(masks, label_masks, inside=True)
        self._kept = [n for n in range(len(masks)) if not any(self._same[n, :n] > _SAME)]
        covering = mask_util.merge(label_masks) if label_masks else None
        self._cover = _iou(masks, [covering], inside=True)[:, 0] if covering else np.zeros(len(masks))
        self._crowd = _crowding(label_masks, self._area)
        rows, columns = linear_sum_assignment(-(self._iou * self._score[:, None])[self._kept])
        pairs = [(self._kept[row], int(column)) for row, column in zip(rows, columns, strict=True)]
        self._match = {column: row for row, column in pairs if self._iou[row, column] >= _TOUCHES}
        matched = set(self._match.values())
        self._free = [row for row in self._kept if row not in matched and self._cover[row] < _SAME]

    def _logit(self, row: int) -> float:
        score = min(max(self._score[row], 1e-3), 1 - 1e-3)
        return float(np.log(score / (1 - score)))

    def found_cases(self) -> list[tuple[list[float], bool]]:
        """Return of each label the figures of its place, and whether the network finds something there."""
        return [(self._place(column), column in self._match) for column in range(len(self._labels))]

    def overlap_cases(self) -> list[tuple[list[float], float]]:
        """Return of each label with an object the figures of both, and their IoU."""
        return [(self._pair(column, row), self._iou[row, column]) for column, row in self._match.items()]

    def _place(self, column: int) -> list[float]:
        return [float(np.log(self._area[column])), self._crowd[column]]

    def _pair(self, column: int, row: int) -> list[float]:
        return [*self._place(column), self._logit(row)]

    def agreement(self) -> tuple[float, float]:
        """Return the sum of the IoU of labels and their objects, and the number of labels and free objects.

        Free objects count by their score.
        """
        return sum(map(self._overlap, range(len(self._labels)))), len(self._labels) + sum(self._score[self._free])

    def _overlap(self, column: int) -> float:
        """Return the IoU of a label and its object; 0 if they are hardly alike."""
        iou = self._iou[self._match[column], column] if column in self._match else 0.0
        return iou if iou >= _SAME else 0.0

    def cases(self, usual: _Usual) -> Iterator[tuple[int | None, int | None, dict[str, float]]]:
        """Yield the positions of each label and of each free object with the evidence by reason, 0 to 1."""
        alike, count = self.agreement()
        for column, position in enumerate(self._labels):
            trust = (alike - self._overlap(column) + _PRIOR * usual.agreement) / (count - 1 + _PRIOR)
            row = self._match.get(column)
            found, evidence = None, {MISSED: usual.is_found(self._place(column))}
            if row is not None:
                found, evidence = self._objects[row], self._differences(column, usual)
            yield position, found, {reason: value * trust**_TRUST for reason, value in evidence.items()}
        for row in self._free:
            trust = (alike + _PRIOR * usual.agreement) / (count - self._score[row] + _PRIOR)
            yield None, self._objects[row], {UNLABELED: self._score[row] * (1 - self._cover[row]) * trust**_TRUST}

    def _differences(self, column: int, usual: _Usual) -> dict[str, float]:
        """Return the evidence of the object that a label is compared with."""
        row = self._match[column]
        iou = self._iou[row, column]
        return {
            OUTLINE: self._score[row] * usual.overlap.strangeness(self._pair(column, row), iou),
            CLASS: self._class_margin(row, column) * min(1, iou / _SAME),
            MERGED: self._parts(column),
        }

    def _class_margin(self, row: int, column: int) -> float:
        """Return by how much the score of another class at a place exceeds that of the label's class, at least 0."""
        own = (self._same[row] > _SAME) & (self._class == self._label_class[column])
        return max(0.0, self._score[row] - max(self._score[own], default=0.0))

    def _parts(self, column: int) -> float:
        """Return how much speaks for several objects in one label: that two parts are sure, large and apart."""
        rows = [row for row in self._kept if self._inside[row, column] >= _INSIDE]
        if len(rows) < 2:
            return 0.0
        whole = max(self._score[self._iou[:, column] > _WHOLE], default=0.0)
        shares = self._iou[rows, column] / self._inside[rows, column]  # about the share of the label
        best = 0.0
        for first, second in itertools.combinations(range(len(rows)), 2):
            if self._same[rows[first], rows[second]] < _APART:
                filled = min(1, shares[first] + shares[second])
                best = max(
                    best, self._score[rows[second]] * filled * min(1, min(shares[first], shares[second]) / _LARGE)
                )
        return max(0.0, best - whole)


def _crowding(masks: Sequence[dict], areas: np.ndarray) -> np.ndarray:
    """Return for each mask (N,) how many others have their center within 2.5 times the square root of its area."""
    if not masks:
        return np.zeros(0)
    boxes = mask_util.toBbox(list(masks))
    centers = boxes[:, :2] + boxes[:, 2:] / 2
    distances = np.linalg.norm(centers[:, None] - centers[None], axis=2)
    return (distances < 2.5 * np.sqrt(areas)[:, None]).sum(axis=1) - 1.0


def _iou(first: Sequence[dict], second: Sequence[dict], inside: bool = False) -> np.ndarray:
    """Return the (N, M) IoU of RLE masks, or the share of the first ones that lies inside of the second ones."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return mask_util.iou(list(first), list(second), [int(inside)] * len(second))
