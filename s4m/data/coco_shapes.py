"""Segmentations and boxes of COCO annotations are checked and repaired here, without rasterizing unproved polygons."""

import contextlib
import json
import math
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pycocotools.mask as mask_util

from d2kit.faults import Faults
from s4m.data.conventions import tell_percentages, tell_rows, tell_swapped
from s4m.data.rle import check_rle, name_of, numbers_in, rle_box

_CHUNK = 20_000  # annotations whose coordinates are in memory as arrays at once
_UNIT = (-0.05, 1.05)  # what fractions of the image lie within, with what a pen overshoots
_SHARE_OF_FRACTIONS = 0.01  # of the polygons; above it they are fractions of the image, and below it specks
_OVERSHOOT = 2  # pixels by which a polygon may leave its image without a word
_SMALLEST_SIDE = 8  # pixels; a smaller image may have whole objects within its first pixel
_SAME_BOX = 0.95  # IoU of a box and its mask's from which both are taken for the same
_OTHER_BOX = 0.5  # IoU of a box and its mask's below which the box is wrong
_SYSTEMATIC = 0.2  # share of wrong boxes above which all that differ are wrong


def _read_parts(segmentation: list) -> list[list[float]]:
    """Read polygons that are written flat, as pairs of numbers, as text or nested deeper as lists of x, y, x, y, ..."""
    nested = any(isinstance(part, (list, dict)) for part in segmentation)
    parts = [list(numbers_in(part)) for part in (segmentation if nested else [segmentation])]
    return [list(chain.from_iterable(parts))] if all(len(part) == 2 for part in parts) else parts


def _is_regular(segmentation: object) -> bool:
    """Return whether a segmentation is a list of lists of at least 3 points."""
    if type(segmentation) is not list or not segmentation:
        return False
    return all(type(part) is list and len(part) >= 6 and not len(part) % 2 for part in segmentation)


def _repair_form(annotation: dict, faults: Faults) -> list | dict | None:
    """Return the segmentation of an annotation as polygons of at least 3 points or as an RLE; None if it has none."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, str) and segmentation.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(ValueError):
            segmentation = json.loads(segmentation)
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
        segmentation = segmentation[0] if "counts" in segmentation[0] else segmentation
    if not segmentation:
        faults.warning("objects without a segmentation, skipped", f"{name_of(annotation)} has no segmentation")
        return None
    if isinstance(segmentation, dict) and "counts" in segmentation and "size" in segmentation:
        return segmentation
    if not isinstance(segmentation, list):
        told = f"{name_of(annotation)} has a segmentation that is neither polygons nor RLE"
        faults.error("segmentations that are neither polygons nor RLE", told)
        return None
    parts = _read_parts(segmentation)
    if parts != annotation["segmentation"]:
        faults.repaired("polygons written flat, as pairs or as text, read", name_of(annotation))
    good = [part for part in parts if len(part) >= 6 and not len(part) % 2]
    if not good:
        told = f"{name_of(annotation)} has no polygon of at least 3 points"
        faults.warning("objects without a polygon of at least 3 points, skipped", told)
        return None
    if len(good) < len(parts):
        faults.repaired("parts of fewer than 3 points or an odd number of coordinates, dropped", name_of(annotation))
    return good


def _flatten(polygons: Sequence[list]) -> array:
    """Return all coordinates of many segmentations; what is no number raises TypeError."""
    return array("d", chain.from_iterable(chain.from_iterable(polygons)))


def _extents(polygons: Sequence[list]) -> np.ndarray:
    """Return x0, y0, x1, y1 and whether a coordinate is a fraction, as (N, 5) float64; NaN stays NaN."""
    lengths = [sum(map(len, polygon)) for polygon in polygons]
    points = np.frombuffer(_flatten(polygons), np.float64).reshape(-1, 2)
    starts = np.cumsum([0, *lengths[:-1]]) // 2
    fraction = (points != np.floor(points)).any(1)
    extremes = [np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)]
    return np.column_stack([*extremes, np.logical_or.reduceat(fraction, starts)])


class _Polygons:
    """The rules of polygons, of a whole json."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._count = 0
        self._fractions: list[str] = []
        self._extents: list[np.ndarray] = []
        self._boxes: list[np.ndarray] = []
        self._sides: list[np.ndarray] = []

    def check(self, annotations: Sequence[dict], sides: np.ndarray) -> np.ndarray:
        """Check annotations whose segmentations are polygons.

        Args:
            annotations: N annotations.
            sides: (N, 2) width and height of their images in pixels.

        Returns:
            (N, 4) x0, y0, x1, y1 of the polygons in pixels, within the image; NaN where the object is left out.
        """
        if not annotations:
            return np.zeros((0, 4))
        polygons = [annotation["segmentation"] for annotation in annotations]
        try:
            extents = _extents(polygons)
        except (TypeError, OverflowError):
            extents = _extents([self._read(annotation) for annotation in annotations])
        self._count += len(annotations)
        low = extents[:, :2]
        high = extents[:, 2:4]
        reach = sides.max(1, keepdims=True)
        finite = np.isfinite(extents[:, :4]).all(1)
        self._extents.append(extents[finite, :4])
        self._boxes.append(_boxes(annotations)[finite])
        self._sides.append(sides[finite])
        with np.errstate(invalid="ignore"):
            far = finite & ((low < -reach) | (high > sides + reach)).any(1)
            unit = (low >= _UNIT[0]).all(1) & (high <= _UNIT[1]).all(1) & (extents[:, 4] > 0)
            unit &= sides.min(1) >= _SMALLEST_SIDE
            flat = finite & ~unit & (high - low <= 0).any(1)
            outside = finite & ~far & ~flat & ((high <= 0) | (low >= sides)).any(1)
        for number in np.flatnonzero(~finite):
            told = f"{name_of(annotations[number])} has a coordinate that is no number"
            self._faults.error("polygons with a coordinate that is no number", told)
        for number in np.flatnonzero(far):
            told = f"{name_of(annotations[number])} has a polygon that reaches far beyond its image"
            values = ", ".join(f"{value:.6g}" for value in extents[number, :4])
            self._faults.error("polygons that reach far beyond their images", f"{told} ({values})")
        beyond = finite & ~far & ~outside & ((low < -_OVERSHOOT) | (high > sides + _OVERSHOOT)).any(1)
        for number in np.flatnonzero(beyond):
            self._faults.warning("polygons that reach beyond their images, cut there", name_of(annotations[number]))
        for number in np.flatnonzero(flat):
            self._faults.warning("objects of no width or height, skipped", name_of(annotations[number]))
        for number in np.flatnonzero(outside):
            self._faults.warning("objects outside their images, skipped", name_of(annotations[number]))
        self._fractions += [name_of(annotations[number]) for number in np.flatnonzero(unit)]
        within = np.column_stack([np.maximum(low, 0), np.minimum(high, sides)])
        within[~finite | far | flat | outside] = np.nan
        return within

    def _read(self, annotation: dict) -> list:
        """Return the polygons with all coordinates as numbers, and keep them in the annotation."""
        try:
            _flatten([annotation["segmentation"]])
        except (TypeError, OverflowError):
            self._faults.repaired("polygons written flat, as pairs or as text, read", name_of(annotation))
            parts = [part for part in _read_parts(annotation["segmentation"]) if len(part) >= 6 and not len(part) % 2]
            annotation["segmentation"] = parts or [[math.nan] * 6]
        return annotation["segmentation"]

    def tell_all(self) -> None:
        """Add the errors of a whole json: polygons in fractions or percentages of the image, or with y before x."""
        if not self._extents:
            return
        extents = np.concatenate(self._extents)
        sides = np.concatenate(self._sides)
        tell_swapped(extents, np.concatenate(self._boxes), sides, self._faults)
        tell_percentages(extents, sides, self._faults)
        count = len(self._fractions)
        if count > _SHARE_OF_FRACTIONS * self._count:
            told = f"the coordinates of {count} of {self._count} polygons lie within 0..1 and are no pixels"
            self._faults.error("polygons in fractions of the image", f"{told}, for example of {self._fractions[0]}")
        elif count:
            self._faults.warning("polygons within the first pixel", self._fractions[0], count)


def _boxes(annotations: Sequence[dict]) -> np.ndarray:
    """Return the boxes as (N, 4) float64; NaN where there are no four numbers."""
    boxes = [annotation.get("bbox") for annotation in annotations]
    four = [box if type(box) is list and len(box) == 4 else [math.nan] * 4 for box in boxes]
    try:
        flat = array("d", chain.from_iterable(four))
    except (TypeError, OverflowError):
        numbers = [all(type(value) in (int, float) for value in box) for box in four]
        four = [list(numbers_in(box)) if good else [math.nan] * 4 for box, good in zip(four, numbers, strict=True)]
        flat = array("d", chain.from_iterable(four))
    return np.frombuffer(flat, np.float64).reshape(-1, 4)


def _compare_boxes(annotations: Sequence[dict], extents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare boxes x, y, width, height with the extents x0, y0, x1, y1 of their masks.

    Returns:
        (N,) IoU of both, and (N,) whether a box is wrong on its own: it is no box, or far from its mask's, or x0, y0,
        x1, y1 of it.
    """
    boxes = _boxes(annotations)
    with np.errstate(invalid="ignore", over="ignore"):
        valid = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
        corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        both = np.minimum(corners[:, 2:], extents[:, 2:]) - np.maximum(corners[:, :2], extents[:, :2])
        inner = np.clip(both, 0, None).prod(1)
        sides = extents[:, 2:] - extents[:, :2]
        iou = inner / (boxes[:, 2:].prod(1) + sides.prod(1) - inner)
        from_corners = np.abs(boxes - extents).max(1)
        from_box = np.abs(boxes - np.column_stack([extents[:, :2], sides])).max(1)
        as_corners = (from_corners <= 1 + 0.02 * sides.max(1)) & (from_corners < from_box) & (iou < _SAME_BOX)
        wrong = ~valid | (iou < _OTHER_BOX) | as_corners
    return np.where(valid, iou, 0), wrong


def _mask_box(segmentation: list | dict, height: int, width: int, extent: Sequence[float]) -> list[float]:
    """Return x, y, width, height of a proved segmentation's pixels, or of its outline if it covers no pixel."""
    if isinstance(segmentation, dict):
        return rle_box(segmentation)
    box = mask_util.toBbox(mask_util.merge(mask_util.frPyObjects(segmentation, height, width))).tolist()
    x0, y0, x1, y1 = extent
    return box if box[2] * box[3] > 0 else [x0, y0, x1 - x0, y1 - y0]


def _repair_chunk(
    annotations: Sequence[dict], sizes: Mapping[int, tuple[int, int]], rules: _Polygons, faults: Faults
) -> tuple[list[dict], np.ndarray]:
    """Return the annotations with a mask, and the extents (N, 4) of the masks."""
    polygons = []
    encoded = []
    for number, annotation in enumerate(annotations):
        if not _is_regular(annotation.get("segmentation")):
            segmentation = _repair_form(annotation, faults)
            if segmentation is None:
                continue
            annotation["segmentation"] = segmentation
        (encoded if isinstance(annotation["segmentation"], dict) else polygons).append(number)
    sides = np.array([sizes[annotation["image_id"]][::-1] for annotation in annotations], np.float64)
    extents = np.full((len(annotations), 4), np.nan)
    extents[polygons] = rules.check([annotations[number] for number in polygons], sides[polygons])
    extents[encoded] = check_rle([annotations[number] for number in encoded], sides[encoded], faults)
    kept = np.flatnonzero(~np.isnan(extents[:, 0]))
    return [annotations[number] for number in kept], extents[kept]


def repair_shapes(annotations: Sequence[dict], sizes: Mapping[int, tuple[int, int]], faults: Faults) -> list[dict]:
    """Check and repair segmentations and boxes, in place.

    Args:
        annotations: COCO annotations of known images.
        sizes: (height, width) in pixels by image id.
        faults: gets what is found.

    Returns:
        the annotations that have a mask, in their order.
    """
    rules = _Polygons(faults)
    kept = []
    extents = []
    overlaps = []
    wrong = []
    for start in range(0, len(annotations), _CHUNK):
        chunk, extent = _repair_chunk(annotations[start : start + _CHUNK], sizes, rules, faults)
        iou, bad = _compare_boxes(chunk, extent)
        kept += chunk
        extents.append(extent)
        overlaps.append(iou)
        wrong.append(bad)
    rules.tell_all()
    if not kept:
        return kept
    bad = np.concatenate(wrong)
    if bad.mean() > _SYSTEMATIC:
        bad |= np.concatenate(overlaps) < _SAME_BOX
    extent = np.concatenate(extents)
    encoded = [kept[number] for number in np.flatnonzero(bad) if isinstance(kept[number]["segmentation"], dict)]
    tell_rows([annotation["segmentation"] for annotation in encoded], _boxes(encoded), faults)
    for number in np.flatnonzero(bad):
        annotation = kept[number]
        told = f"{name_of(annotation)} has the box {annotation.get('bbox')}"
        faults.repaired("boxes that are not those of their masks, recomputed", told)
        box = _mask_box(annotation["segmentation"], *sizes[annotation["image_id"]], extent[number].tolist())
        annotation["bbox"] = box
    return kept
