"""Readers of points that annotation tools wrote: COCO json, VOC xml, YOLO txt and labelme json.

All of them have continuous coordinates, in which pixel i covers i..i+1.
"""

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from d2kit.coco_masks import decode_segmentation
from d2kit.faults import Faults
from d2kit.limits import max_pixels
from d2kit.rle import count_lists, count_strings
from istd.data.names import image_key
from istd.data.point_tables import Entry
from istd.data.text import read_text

Point = tuple[float, float]
FRACTIONS = (1.0, 1.0)  # size for coordinates that are shares of the width and the height
FURTHEST = 10  # A polygon may reach beyond its image by so many of its sides; a larger one is not drawn.


def read_coco(path: Path, faults: Faults) -> dict[str, Callable[[int, int], Entry]]:
    """Read a COCO json; crowds are left out unless every annotation is one.

    Returns:
        function (height, width) of the picture -> entry, by `image_key`. It raises ValueError, which names the
        annotation, if an annotation has no place.

    Raises:
        ValueError: the file is not in COCO format; the message names it.
    """
    try:
        content = json.loads(read_text(path))
        images = {_id(image["id"]): image for image in content["images"]}
        annotations: dict[str, list] = {image_key(image["file_name"]): [] for image in images.values()}
        everything = list(content.get("annotations") or ())
        crowds = [annotation for annotation in everything if _is_crowd(annotation)]
        if crowds and len(crowds) == len(everything):
            sentence = f"{path}: every annotation is a crowd; they are taken as targets."
            faults.repaired("crowds that are taken as targets", sentence, len(crowds))
        elif crowds:
            everything = [annotation for annotation in everything if not _is_crowd(annotation)]
            faults.warning("crowds that are left out", f"{path}: they are no targets.", len(crowds))
        for annotation in everything:
            image = images[_id(annotation["image_id"])]
            annotations[image_key(image["file_name"])].append((annotation, image))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a COCO annotation file ({type(error).__name__}: {error}).") from error
    return {key: _coco_entry(path, pairs) for key, pairs in annotations.items()}


def _id(value: object) -> str:
    """Return an id as text, so that 7, 7.0 and "7" are the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_crowd(annotation: dict) -> bool:
    return str(annotation.get("iscrowd")).strip().lower() in ("1", "1.0", "true", "yes")


def _coco_entry(path: Path, pairs: Sequence[tuple[dict, dict]]) -> Callable[[int, int], Entry]:
    def entry(height: int, width: int) -> Entry:
        points = []
        size = None
        for annotation, image in pairs:
            size = _size(image.get("width"), image.get("height"))
            try:
                points.append(_coco_point(annotation, size or (width, height)))
            except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
                name = f"{path}: annotation {annotation.get('id')} of image '{image['file_name']}'"
                raise ValueError(f"{name} has no key point, segmentation or box that is a place ({error}).") from error
        return Entry(path, points, size)

    return entry


def _size(width: object, height: object) -> Point | None:
    """Return width and height if they are given and positive."""
    try:
        size = (float(width), float(height))
    except (TypeError, ValueError):
        return None
    return size if min(size) > 0 and math.isfinite(max(size)) else None


def _coco_point(annotation: dict, size: Point) -> Point:
    """Return the first labeled key point, else the centroid of the segmentation, else the center of the box.

    Key points of visibility 0 are not labeled; where there is no other place, their coordinates count if not zero.
    """
    keypoints = annotation.get("keypoints") or []
    step = 3 if len(keypoints) % 3 == 0 else 2
    places = [(float(keypoints[i]), float(keypoints[i + 1])) for i in range(0, len(keypoints), step)]
    labeled = [place for i, place in enumerate(places) if step == 2 or keypoints[3 * i + 2] > 0]
    if labeled:
        return _finite(labeled[0])
    point = _center_of_segmentation(annotation.get("segmentation"), size)
    if point is not None:
        return point
    box = annotation.get("bbox")
    if box and any(box):
        x, y, width, height = map(float, box)
        if width < 0 or height < 0:
            raise ValueError(f"the box {box} has a negative side")
        # The far edge of a box belongs to the next pixel, so a box of size 0 at the border is a pixel of the image.
        return _finite((x + width / 2, y + height / 2))
    nonzero = [place for place in places if any(place)]
    if nonzero:
        return _finite(nonzero[0])
    raise ValueError(f"the box is {box}")


def _finite(point: Point) -> Point:
    if not all(map(math.isfinite, point)):
        raise ValueError(f"{point} is not finite")
    return point


def _center_of_segmentation(segmentation: object, size: Point) -> Point | None:
    """Return the middle of the pixel of the mask that is nearest to its centroid, or None without a mask.

    Raises:
        ValueError: the polygon or the RLE is damaged, or has too many pixels.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        height, width = map(int, segmentation["size"])
        _check_rle(segmentation["counts"], height, width)
        center = _center_of_mask(segmentation, height, width)
        return None if center is None else (center[0] * size[0] / width, center[1] * size[1] / height)
    polygons = [np.array(part, np.float64).ravel() for part in _parts(segmentation)]
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if not polygons:
        return None
    corners = np.concatenate(polygons).reshape(-1, 2)
    if not np.isfinite(corners).all() or (np.abs(corners) > FURTHEST * max(size)).any():
        raise ValueError("its polygon is not finite or lies far outside")
    if corners.max() <= 1 < min(size):
        return center_of_polygon(polygons[0].reshape(-1, 2))
    # Only the part of the image that holds the polygon is drawn, because a json may claim an image of any size.
    left, top = np.maximum(np.floor(corners.min(0)) - 1, 0)
    right, bottom = np.minimum(np.ceil(corners.max(0)) + 1, np.round(size))
    if right <= left or bottom <= top:
        return None
    shifted = [(polygon.reshape(-1, 2) - (left, top)).ravel().tolist() for polygon in polygons]
    center = _center_of_mask(shifted, int(bottom - top), int(right - left))
    return None if center is None else (center[0] + left, center[1] + top)


def _parts(segmentation: list) -> list:
    """Return the polygons of a segmentation, which may also be one polygon, or lists of [x, y]."""
    return segmentation if isinstance(segmentation[0], (list, tuple)) else [segmentation]


def _check_rle(counts: object, height: int, width: int) -> None:
    """Raise ValueError if run lengths do not add up, because pycocotools decodes them to what is in memory."""
    if not isinstance(counts, (str, list)):
        raise ValueError("the counts of its RLE are neither list nor text")
    pixels = int((count_strings if isinstance(counts, str) else count_lists)([counts])[0])
    if pixels != height * width:
        raise ValueError(f"its RLE of {width}x{height} pixels is damaged")


def _center_of_mask(segmentation: list | dict, height: int, width: int) -> Point | None:
    """Return the middle of the pixel of the mask that is nearest to its centroid, or None if the mask is empty."""
    if height * width > max_pixels():
        raise ValueError(f"its mask has {width}x{height} pixels, which is more than {max_pixels()} (INPUT.MAX_PIXELS)")
    mask = decode_segmentation(segmentation, height, width)
    if not mask.any():
        return None
    rows, columns = np.nonzero(mask)
    x, y = nearest_on_target(mask > 0, np.array([columns.mean(), rows.mean()]))
    return x + 0.5, y + 0.5


def nearest_on_target(target: np.ndarray, center: np.ndarray) -> tuple[int, int]:
    """Return x, y of the pixel that holds `center` (x, y), or of the nearest one of the (H, W) target."""
    x, y = int(center[0]), int(center[1])
    if not target[y, x]:
        rows, columns = np.nonzero(target)
        nearest = int(np.argmin((columns - center[0]) ** 2 + (rows - center[1]) ** 2))
        x, y = int(columns[nearest]), int(rows[nearest])
    return x, y


def center_of_polygon(corners: np.ndarray) -> Point:
    """Return the centroid of a polygon's area, or the mean of its (N, 2) corners if it has no area."""
    middle = corners.mean(axis=0)
    extent = np.abs(corners - middle).max()
    moments = cv2.moments(((corners - middle) / (extent or 1)).astype(np.float32).reshape(-1, 1, 2))
    if abs(moments["m00"]) < 1e-9:
        return float(middle[0]), float(middle[1])
    offset = np.array([moments["m10"], moments["m01"]]) / moments["m00"] * extent
    return float(middle[0] + offset[0]), float(middle[1] + offset[1])


def read_voc(path: Path) -> Entry:
    """Read the centers of the boxes of a VOC xml, which counts pixels from 1 and includes the far edge.

    Raises:
        ValueError: the file is damaged, or a box has no numbers; the message names the file.
    """
    try:
        root = ElementTree.parse(path).getroot()
        points = []
        for box in root.iter("bndbox"):
            xmin, ymin, xmax, ymax = (float(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))
            points.append(_finite(((xmin + xmax - 1) / 2, (ymin + ymax - 1) / 2)))
        return Entry(path, points, _size(root.findtext("size/width"), root.findtext("size/height")))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is not a VOC annotation file ({error}).") from error


def read_yolo(path: Path) -> Entry:
    """Read the centers of the boxes or polygons of a YOLO txt, whose coordinates are shares of the image's sides.

    A line is a class and x, y; x, y, width, height; the same with a score; or the corners of a polygon.

    Raises:
        ValueError: a line is none of these, or a share is not within 0..1; the message names the file and the line.
    """
    points = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:]]
            corners = len(values) >= 6 and len(values) % 2 == 0
            if not corners and len(values) not in (2, 4, 5):
                raise ValueError
            x, y = center_of_polygon(np.reshape(values, (-1, 2))) if corners else values[:2]
            if not (0 <= x <= 1 and 0 <= y <= 1):
                raise ValueError
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: '{line}' is no class and box in shares of 0..1.") from error
        points.append((x, y))
    return Entry(path, points, FRACTIONS)


def read_labelme(path: Path) -> Entry:
    """Read points, and the centers of rectangles, circles and polygons, of a labelme json.

    Raises:
        ValueError: the file has no list of shapes, or a shape has no points; the message names the file.
    """
    try:
        content = json.loads(read_text(path))
        points = [_shape_center(shape) for shape in content["shapes"]]
        return Entry(path, points, _size(content.get("imageWidth"), content.get("imageHeight")))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a labelme file ({type(error).__name__}: {error}).") from error


def _shape_center(shape: dict) -> Point:
    corners = np.array(shape["points"], np.float64).reshape(-1, 2)
    if shape.get("shape_type", "polygon") in ("point", "circle"):
        corners = corners[:1]  # The second point of a circle is on its edge.
    if not len(corners):
        raise ValueError("a shape has no points")
    return _finite(center_of_polygon(corners) if len(corners) > 2 else tuple(corners.mean(axis=0).tolist()))
