"""What speaks against single labels without a network that looks again: their figures, sizes and neighbors."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util

from d2kit.audit.doubts import strange_sizes

CONFIDENCE = "low confidence"
DISAGREEMENT = "SAM disagrees with the teacher"
SIZE = "unusual size for its class"
OVERLAP = "overlaps a neighbor"
DOUBTS = (CONFIDENCE, DISAGREEMENT, SIZE, OVERLAP)


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
        doubts[numbers, 2] = strange_sizes([annotations[number]["area"] for number in numbers])
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
