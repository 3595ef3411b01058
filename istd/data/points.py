"""Points of targets, one per target, that are read from PNG, COCO json, VOC xml or CSV files, or made from masks.

Points are [x, y], 0-based pixel indices of the image. Fractional coordinates become the pixel that holds them.
"""

import csv
import json
import logging
import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from d2kit.coco_masks import decode_segmentation
from istd.data.images import EXTENSIONS, SizeMismatch, find_image, image_name, image_size, read_mask

logger = logging.getLogger(__name__)

PointList = list[list[int]]
KINDS = ("centroid", "coarse")


class PointSource:
    """Lookup of an image's points by its name without extension.

    Args:
        source: a folder of images with one white pixel per target (any EXTENSIONS), a folder of VOC xml files (box
            centers), a COCO json (key point, else centroid of the segmentation, else box center; crowds are ignored)
            or a CSV with the columns image, x, y (an image without targets has one line with empty x and y).

    Raises:
        FileNotFoundError, ValueError: the source is absent or unreadable; the message names it.
    """

    def __init__(self, source: str | os.PathLike):
        self.source = Path(source)
        if self.source.is_dir():
            self._find: Callable[[str], tuple[Path, PointList] | None] = self._find_in_folder
        elif self.source.is_file():
            readers = {".json": _read_coco, ".csv": _read_csv}
            if self.source.suffix.lower() not in readers:
                raise ValueError(f"{self.source} is no source of points: a folder, a .json or a .csv file is expected.")
            table = readers[self.source.suffix.lower()](self.source)
            self._find = lambda name: (self.source, table[name]) if name in table else None
        else:
            raise FileNotFoundError(f"the points '{self.source}' do not exist.")

    def __call__(self, name: str, height: int, width: int) -> PointList:
        """Return the points of image `name` in the source's order, without duplicates.

        Two points on one pixel are merged, with one warning that names the file.

        Raises:
            KeyError: the source does not know the image.
            ValueError: a point is outside the image, or a point image has another size (SizeMismatch).
        """
        entry = self._find(name)
        if entry is None:
            raise KeyError(f"image '{name}' has no points in {self.source}.")
        file, points = entry
        file_size = image_size(file) if file.suffix.lower() in EXTENSIONS else (height, width)
        if file_size != (height, width):
            raise SizeMismatch(
                f"points {file} are {file_size[1]}x{file_size[0]} pixels but its image '{name}' is {width}x{height}."
            )
        for x, y in points:
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(f"{file}: point ({x}, {y}) is outside image '{name}' of {width}x{height} pixels.")
        unique = [list(point) for point in dict.fromkeys(map(tuple, points))]
        if len(unique) < len(points):
            logger.warning("%s: image '%s' has two points on one pixel; they are merged.", file, name)
        return unique

    def _find_in_folder(self, name: str) -> tuple[Path, PointList] | None:
        xml = self.source / f"{name}.xml"
        if xml.is_file():
            return xml, _read_voc(xml)
        path = find_image(self.source, name)
        if path is None:
            return None
        rows, columns = np.nonzero(read_mask(path))
        return path, [[int(x), int(y)] for x, y in zip(columns, rows, strict=True)]


def points_from_mask(
    mask: np.ndarray, kind: str = "centroid", generator: np.random.Generator | None = None
) -> PointList:
    """Make one point for each 8-connected target of an (H, W) mask, in raster order of the targets' first pixels.

    A "centroid" point is the floor of the centroid in pixel indices, or the nearest target pixel if that is not on the
    target. A "coarse" point is drawn with `generator` from a Gaussian around the centroid, whose sigma is an eighth of
    the bounding box's side in each axis, until it is on the target.
    """
    if kind not in KINDS:
        raise ValueError(f"the kind of points must be one of {KINDS}, not '{kind}'.")
    binary = (np.asarray(mask) > 0).astype(np.uint8)
    _, labels, stats, centroids = cv2.connectedComponentsWithStats(binary, connectivity=8)
    points = []
    for index in range(1, len(stats)):
        left, top, width, height = (int(value) for value in stats[index, :4])
        target = labels[top : top + height, left : left + width] == index
        center = centroids[index] - (left, top)
        x, y = _on_target(target, center) if kind == "centroid" else _near_center(target, center, generator)
        points.append([x + left, y + top])
    return points


def _on_target(target: np.ndarray, center: np.ndarray) -> tuple[int, int]:
    x, y = int(center[0]), int(center[1])
    if not target[y, x]:
        rows, columns = np.nonzero(target)
        nearest = int(np.argmin((columns - center[0]) ** 2 + (rows - center[1]) ** 2))
        x, y = int(columns[nearest]), int(rows[nearest])
    return x, y


def _near_center(target: np.ndarray, center: np.ndarray, generator: np.random.Generator | None) -> tuple[int, int]:
    if generator is None:
        raise ValueError("coarse points are drawn at random: a generator is needed.")
    height, width = target.shape
    for _ in range(1000):
        x, y = (math.floor(value) for value in generator.normal(center, (width / 8, height / 8)))
        if 0 <= x < width and 0 <= y < height and target[y, x]:
            return x, y
    rows, columns = np.nonzero(target)  # The target is a thin ring that no draw hit.
    index = int(generator.integers(len(rows)))
    return int(columns[index]), int(rows[index])


def _read_csv(path: Path) -> dict[str, PointList]:
    table: dict[str, PointList] = {}
    for number, row in read_table(path, ("image", "x", "y")):
        points = table.setdefault(image_name(row["image"]), [])
        try:
            if (row["x"] or "").strip() or (row["y"] or "").strip():
                points.append([_pixel_index(row["x"]), _pixel_index(row["y"])])
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}, line {number}: x '{row['x']}', y '{row['y']}' is not a point.") from error
    return table


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file in UTF-8 as the line number and the values by column of each row.

    Raises:
        ValueError: a column is missing, or the file is no text; the message names it.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not set(columns) <= set(reader.fieldnames or ()):
                expected = f"{', '.join(columns[:-1])} and {columns[-1]} are expected"
                raise ValueError(f"{path} has the columns {reader.fieldnames}: {expected}.")
            for row in reader:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}).") from error


def _read_coco(path: Path) -> dict[str, PointList]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        table: dict[str, PointList] = {image_name(image["file_name"]): [] for image in images.values()}
        for annotation in content.get("annotations", ()):
            if not annotation.get("iscrowd", 0):
                image = images[annotation["image_id"]]
                table[image_name(image["file_name"])].extend(_coco_points(annotation, image))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path} is not a COCO annotation file ({type(error).__name__}: {error}).") from error
    return table


def _coco_points(annotation: dict, image: dict) -> Iterable[list[int]]:
    """Return the annotation's point; COCO coordinates are continuous, and pixel i covers i..i+1."""
    keypoints = annotation.get("keypoints") or []
    visible = [keypoints[i : i + 2] for i in range(0, len(keypoints), 3) if keypoints[i + 2] > 0]
    if visible:
        return [[math.floor(x), math.floor(y)] for x, y in visible[:1]]
    segmentation = annotation.get("segmentation")
    if segmentation:
        mask = decode_segmentation(segmentation, image["height"], image["width"])
        if mask.any():
            rows, columns = np.nonzero(mask)
            return [list(_on_target(mask > 0, np.array([columns.mean(), rows.mean()])))]
    x, y, width, height = annotation["bbox"]
    # The far edge of a box belongs to the next pixel, so a box of size 0 at the border is a pixel of the image.
    return [[math.floor(x + width / 2), math.floor(y + height / 2)]]


def _read_voc(path: Path) -> PointList:
    """Return box centers; VOC counts pixels from 1 and includes the far edge."""
    try:
        points = []
        for box in ElementTree.parse(path).getroot().iter("bndbox"):
            xmin, ymin, xmax, ymax = (float(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))
            points.append([math.floor((xmin + xmax - 1) / 2), math.floor((ymin + ymax - 1) / 2)])
        return points
    except (ElementTree.ParseError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not a VOC annotation file ({error}).") from error


def _pixel_index(text: str) -> int:
    return math.floor(float(text) + 0.5)
