"""Progressive mining: waiting images enter the pool once the network finds their points (docs: Mining).

Frame: (H, W) maps at the image's own size; points are [x, y] 0-based pixel indices.
"""

import cv2
import numpy as np

from istd.pseudo_masks.initialize import Points, check_points


def ratio_at(epoch: float, start: float, end: float, low: float = 0.2, high: float = 1.0) -> float:
    """Return the allowed share of missed points: `low` up to epoch `start`, then linear, `high` from `end` on."""
    if end <= start:
        return high if epoch >= end else low
    return low + (high - low) * min(max((epoch - start) / (end - start), 0.0), 1.0)


def select(
    probability: np.ndarray,
    points: Points,
    *,
    ratio: float,
    max_false_ratio: float = 5.0,
    threshold: float = 0.5,
) -> tuple[bool, np.ndarray]:
    """Return whether a waiting image enters the pool, and its mask.

    The image enters when missed points / points <= `ratio` and false regions / points <= `max_false_ratio`. A point is
    missed when no 8-connected region of {p > `threshold`} holds its pixel; a region is false when it holds no point. An
    image without points enters with an empty mask.

    Args:
        probability: (H, W).
        points: N times [x, y].

    Returns:
        accepted: bool.
        mask: (H, W) float32, 1 in the regions that hold a point and at the points, else 0.

    Raises:
        ValueError: a point outside the image.
    """
    probability = np.asarray(probability, np.float32)
    array = check_points(points, *probability.shape)
    if not len(array):
        return True, np.zeros(probability.shape, np.float32)
    count, regions = cv2.connectedComponents((probability > threshold).astype(np.uint8), connectivity=8)
    at_points = regions[array[:, 1], array[:, 0]]
    hit = np.unique(at_points[at_points > 0])
    missed = float((at_points == 0).mean())
    false = (count - 1 - len(hit)) / len(array)
    mask = np.isin(regions, hit).astype(np.float32)
    mask[array[:, 1], array[:, 0]] = 1
    return missed <= ratio + 1e-9 and false <= max_false_ratio, mask
