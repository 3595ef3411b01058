"""The `area` of COCO annotations is compared with their masks."""

from array import array
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pycocotools.mask as mask_util

from d2kit.faults import Faults
from s4m.data.rle import name_of

_CHUNK = 20_000  # annotations whose coordinates are in memory as arrays at once
_FACTOR = 2  # An area that differs by more from its mask's is of another unit, resolution or object.


def outline_areas(polygons: Sequence[list[list[float]]]) -> np.ndarray:
    """Return the (N,) sums of the areas of the outlines of N segmentations, each a list of polygons x, y, x, y, ..."""
    parts = list(chain.from_iterable(polygons))
    points = np.frombuffer(array("d", chain.from_iterable(parts)), np.float64).reshape(-1, 2)
    ends = np.cumsum([len(part) // 2 for part in parts])
    starts = np.concatenate([[0], ends[:-1]])
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    cross = points[:, 0] * points[following, 1] - points[following, 0] * points[:, 1]
    areas = np.abs(np.add.reduceat(cross, starts)) / 2
    firsts = np.cumsum([0, *(len(polygon) for polygon in polygons[:-1])])
    return np.add.reduceat(areas, firsts)


def _mask_area(segmentation: list | dict, height: int, width: int) -> int:
    """Return the pixels of a proved segmentation."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return int(mask_util.area(segmentation))
    encoded = mask_util.frPyObjects(segmentation, height, width)
    return int(mask_util.area(encoded if isinstance(segmentation, dict) else mask_util.merge(encoded)))


def _differ(area: float, other: float) -> bool:
    return not other / _FACTOR <= area <= other * _FACTOR


def repair_areas(annotations: Sequence[dict], sizes: Mapping[int, tuple[int, int]], faults: Faults) -> None:
    """Replace each `area` that is less than half or more than twice its mask's, in place.

    Args:
        annotations: annotations with proved segmentations; those without `area` stay as they are.
        sizes: (height, width) in pixels by image id.
        faults: gets what is found.
    """
    given = [annotation for annotation in annotations if "area" in annotation]
    for start in range(0, len(given), _CHUNK):
        chunk = given[start : start + _CHUNK]
        polygons = [annotation["segmentation"] for annotation in chunk if isinstance(annotation["segmentation"], list)]
        outlines = iter(outline_areas(polygons) if polygons else ())
        for annotation in chunk:
            encoded = isinstance(annotation["segmentation"], dict)
            if not (encoded or _differ(annotation["area"], next(outlines))):
                continue
            area = _mask_area(annotation["segmentation"], *sizes[annotation["image_id"]])
            if area and _differ(annotation["area"], area):
                told = f"{name_of(annotation)} has the area {annotation['area']:g}, and its mask {area} pixels"
                faults.repaired("areas that are not those of their masks, recomputed", told)
                annotation["area"] = area
