"""The items of an audit: points with their masks, and masks without a point, in the order of falling doubt."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from d2kit.audit.doubts import strange_sizes, told, total
from istd.data.images import read_infrared
from istd.data.point_files import nearest_on_target

FAINT = "faint spot"
NO_MASK = "no mask at the point"
SIZE = "unusual size of the mask"
CHANGED = "mask changed much"
SHARED = "several points in one mask"
NO_POINT = "mask without a point"
REASONS = (FAINT, NO_MASK, SIZE, CHANGED, SHARED)

EIGHT = np.ones((3, 3), int)  # Pixels that touch at a corner belong together.
_REACH = 3  # pixels from a point within which a mask may lie that belongs to it
_AROUND = 12  # pixels around a point, in which the background is measured
_CLEAR = 6.0  # standard deviations of the background at which a spot is not faint
_WEIGHTS = {NO_MASK: 0.9, SHARED: 0.6, NO_POINT: 0.7}


class Item(NamedTuple):
    """A point, or a region of a mask without a point.

    Attributes:
        image_id: its image.
        point: x, y in pixel indices; of a region, the pixel of it that is nearest to its centroid.
        is_point: whether a point is there already.
        doubt: 0 to 1.
        reasons: what speaks against it.
        region: number of its region in `regions` of its image's mask, 0 for none.
        other: number of its region in `regions` of the first mask, 0 for none.
    """

    image_id: str
    point: tuple[int, int]
    is_point: bool
    doubt: float
    reasons: tuple[str, ...]
    region: int = 0
    other: int = 0

    @property
    def name(self) -> str:
        """The name of the item, distinct among all."""
        return f"{self.image_id}{'#' if self.is_point else '@'}{self.point[0]},{self.point[1]}"


def regions(mask: np.ndarray) -> np.ndarray:
    """Return the (H, W) numbers, from 1, of the connected regions of a mask; 0 is background."""
    return ndimage.label(mask, EIGHT)[0]


def items_of(records: Sequence[dict], masks: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> list[Item]:
    """Return the items of images.

    Args:
        records: dataset dicts with `points`.
        masks: (H, W) bool masks by image id; images may lack one.
        first: the same of the first pseudo-masks.
    """
    items, doubts, areas = [], [], []
    for record in records:
        image_id = record["image_id"]
        gray = read_infrared(record["file_name"])
        mask, before = (regions(source[image_id]) if image_id in source else None for source in (masks, first))
        own = [_region_at(mask, point) for point in record["points"]]
        for point, region in zip(record["points"], own, strict=True):
            other = _region_at(before, point)
            doubts.append(
                [
                    faintness(gray, point),
                    _WEIGHTS[NO_MASK] * (mask is not None and not region),
                    0,
                    _change(mask == region, before == other) if region and other else 0,
                    _WEIGHTS[SHARED] * (region > 0 and own.count(region) > 1),
                ]
            )
            areas.append(np.sum(mask == region) if region else 0)
            items.append(Item(image_id, tuple(point), True, 0, (), region, other))
        for region in set(range(1, 1 + (0 if mask is None else int(mask.max())))) - set(own):
            target = mask == region
            rows, columns = np.nonzero(target)
            point = nearest_on_target(target, np.array([columns.mean(), rows.mean()]))
            doubts.append([0] * len(REASONS))
            areas.append(0)
            items.append(Item(image_id, point, False, _WEIGHTS[NO_POINT], (NO_POINT,), region))
    return _ranked(items, np.reshape(doubts, (-1, len(REASONS))), np.array(areas))


def _ranked(items: Sequence[Item], doubts: np.ndarray, areas: np.ndarray) -> list[Item]:
    """Return the items with their doubts (N, len(REASONS)), the greatest first."""
    sized = areas > 0
    doubts[sized, REASONS.index(SIZE)] = strange_sizes(areas[sized])
    ranked = [
        item._replace(doubt=float(doubt), reasons=told(parts, REASONS)) if item.is_point else item
        for item, parts, doubt in zip(items, doubts, total(doubts), strict=True)
    ]
    return sorted(ranked, key=lambda item: -item.doubt)


def _region_at(numbers: np.ndarray | None, point: Sequence[int]) -> int:
    """Return the number of the region at a point x, y or, near by, of the nearest one; 0 for none."""
    if numbers is None:
        return 0
    x, y = point
    top, left = max(0, y - _REACH), max(0, x - _REACH)
    near = numbers[top : y + _REACH + 1, left : x + _REACH + 1]
    rows, columns = np.nonzero(near)
    if not len(rows):
        return 0
    nearest = int(np.argmin((rows + top - y) ** 2 + (columns + left - x) ** 2))
    return int(near[rows[nearest], columns[nearest]])


def _change(after: np.ndarray, before: np.ndarray) -> float:
    """Return 1 less the IoU."""
    return 1 - (after & before).sum() / (after | before).sum()


def faintness(gray: np.ndarray, point: Sequence[int]) -> float:
    """Return 0 if the (H, W) gray values have a clear spot, bright or dark, at a point x, y, up to 1 if there is none.

    The noise is the robust standard deviation of the surroundings.
    """
    x, y = point
    around = gray[max(0, y - _AROUND) : y + _AROUND + 1, max(0, x - _AROUND) : x + _AROUND + 1]
    middle = np.median(around)
    noise = max(1.4826 * float(np.median(np.abs(around - middle))), 0.5)  # 8-bit images are rounded.
    spot = gray[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
    return float(np.clip(1 - np.abs(spot - middle).max() / noise / _CLEAR, 0, 1))
