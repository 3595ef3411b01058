"""What speaks against single labels without a network that looks again: their figures, sizes and neighbors."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util

CONFIDENCE = "low confidence"
DISAGREEMENT = "SAM disagrees with the teacher"
SIZE = "unusual size for its class"
OVERLAP = "overlaps a neighbor"
DOUBTS = (CONFIDENCE, DISAGREEMENT, SIZE, OVERLAP)

_LEAST_TOLD = 0.25  # A smaller doubt is no reason that is shown.
_LEAST_LABELS = 8  # of a class, from which its usual size is known
_USUAL = 2.0  # robust standard deviations of the logarithm of areas that are usual
_STRANGE = 6.0  # robust standard deviations at which a size is as strange as it gets


def doubts_of(annotations: Sequence[dict]) -> np.ndarray:
    """Return how much speaks against each label, by reason.

    - CONFIDENCE: 1 less `confidence` or, where that is missing, `score`.
    - DISAGREEMENT: 1 less `agreement`, the IoU of the teacher's mask and SAM's.
    - SIZE: how far the logarithm of the area lies from the median of its class, by the spread in the class.
    - OVERLAP: greatest share of the mask that lies in another label of its image.

    A figure that is missing or null gives 0.

    Args:
        annotations: annotations of COCO with `image_id`, `category_id`, `area` in pixels, and `segmentation`, an RLE
            with compressed counts.

    Returns:
        (N, 4) values 0 to 1 in the order of DOUBTS.
    """
    doubts = np.zeros((len(annotations), len(DOUBTS)))
    for number, annotation in enumerate(annotations):
        confidence = annotation.get("confidence", annotation.get("score"))
        for column, value in enumerate((confidence, annotation.get("agreement"))):
            doubts[number, column] = 0 if value is None else np.clip(1 - value, 0, 1)
    for numbers in _groups(annotations, "category_id"):
        doubts[numbers, 2] = _strange_sizes([annotations[number]["area"] for number in numbers])
    for numbers in _groups(annotations, "image_id"):
        masks = [annotations[number]["segmentation"] for number in numbers]
        shares = mask_util.iou(masks, masks, [1] * len(masks))
        np.fill_diagonal(shares, 0)
        doubts[numbers, 3] = shares.max(axis=1)
    return doubts


def _groups(annotations: Sequence[dict], key: str) -> list[list[int]]:
    """Return the positions of the annotations that share a value."""
    groups = defaultdict(list)
    for number, annotation in enumerate(annotations):
        groups[annotation[key]].append(number)
    return list(groups.values())


def _strange_sizes(areas: Sequence[float]) -> np.ndarray:
    """Return 0 to 1 for each area."""
    if len(areas) < _LEAST_LABELS:
        return np.zeros(len(areas))
    logarithms = np.log(np.maximum(areas, 1))
    distances = np.abs(logarithms - np.median(logarithms))
    spread = max(1.4826 * np.median(distances), 0.1)  # The factor makes it the standard deviation of a Gaussian.
    return np.clip((distances / spread - _USUAL) / (_STRANGE - _USUAL), 0, 1)


def total(doubts: np.ndarray) -> np.ndarray:
    """Return the doubts (N, D) of each label together: 1 where one of them is 1, 0 where all are 0."""
    return 1 - np.prod(1 - doubts, axis=1)


def told(doubts: Sequence[float]) -> tuple[str, ...]:
    """Return the reasons of one label that are worth telling, the weightiest first."""
    order = np.argsort(-np.asarray(doubts), kind="stable")
    return tuple(DOUBTS[column] for column in order if doubts[column] >= _LEAST_TOLD)
