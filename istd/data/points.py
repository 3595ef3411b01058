"""Points of targets, one per target, that are read from files of many kinds or made from masks.

Points are [x, y], 0-based pixel indices of the image. Fractional coordinates become the pixel that holds them.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from d2kit.faults import Faults
from istd.data.images import SizeMismatch, image_size, read_mask
from istd.data.mask_files import find_mask
from istd.data.names import NameTable, spellings
from istd.data.point_files import FRACTIONS, nearest_on_target, read_coco, read_labelme, read_voc, read_yolo
from istd.data.point_tables import Entry, read_csv

PointList = list[list[int]]
KINDS = ("centroid", "coarse")
UNITS = {"pixels": None, "fraction": FRACTIONS, "percent": (100.0, 100.0)}  # unit: size that coordinates refer to
FOLDER_READERS = {".xml": read_voc, ".json": read_labelme, ".txt": read_yolo}
LARGEST_DOT = 0.25  # A white region with more than this share of the image is no point.
JOINED = 1.5  # A dot with this many times the pixels of most others may be two dots that touch.
ROUNDING = 0.02  # Scaled coordinates may lie this many pixels below the border of their pixel.


class PointSource:
    """Lookup of an image's points by its name without extension.

    Args:
        source: a folder of images with a white dot on each target (any EXTENSIONS), of VOC xml files, of YOLO txt files
            or of labelme json files; a COCO json; or a CSV. `istd.data.point_files` and `read_csv` say what a point is.
        unit: "pixels", or "fraction" or "percent" of the image's width and height.
        faults: collection that gets repairs and warnings; None makes one, see the attribute `faults`.

    Raises:
        FileNotFoundError, ValueError: the source is absent or unreadable; the message names it.
    """

    def __init__(self, source: str | os.PathLike, unit: str = "pixels", faults: Faults | None = None):
        if unit not in UNITS:
            raise ValueError(f"the unit of points must be one of {', '.join(UNITS)}, not '{unit}'.")
        self.source = Path(source)
        self.faults = Faults() if faults is None else faults
        self._size = UNITS[unit]
        self._largest = 0.0
        self._whole = True  # whether all coordinates so far are whole numbers
        self._dots: list[tuple[int, Path]] = []  # pixels and file of each white dot so far
        if self.source.is_dir():
            self._find: Callable[[str, int, int], Entry | None] = self._find_in_folder
        elif self.source.is_file():
            self._table = self._read_table()
            self._names = NameTable(self._table, self.source)
            self._find = self._find_in_table
        else:
            raise FileNotFoundError(f"the points '{self.source}' do not exist.")

    def __call__(self, name: str, height: int, width: int) -> PointList:
        """Return the points of image `name` in the source's order, without duplicates.

        Points of a file that gives another size of the image are scaled. Repairs go to `faults`.

        Raises:
            KeyError: the source does not know the image.
            ValueError: a point is outside the image, or the annotation is unfit. It is a SizeMismatch if a point image
                has another size, or if a file says that the image has another ratio of its sides.
        """
        entry = self._find(name, height, width)
        if entry is None:
            raise KeyError(f"image '{name}' has no points in {self.source}.")
        points = self._pixels(entry, name, height, width)
        for x, y in points:
            if not (0 <= x < width and 0 <= y < height):
                hint = " Are x and y swapped?" if 0 <= y < width and 0 <= x < height else ""
                raise ValueError(
                    f"{entry.file}: point ({x}, {y}) is outside image '{name}' of {width}x{height} pixels.{hint}"
                )
        unique = [list(point) for point in dict.fromkeys(map(tuple, points))]
        if len(unique) < len(points):
            sentence = f"{entry.file}: image '{name}' has two points on one pixel; they are merged."
            self.faults.repaired("points on one pixel", sentence)
        return unique

    def check_all(self) -> None:
        """Apply the rules for all points that were returned so far; dots that may be two go to `faults`.

        Raises:
            ValueError: every coordinate is a fraction within 0..1, so no pixel.
        """
        sizes = Counter(pixels for pixels, _ in self._dots)
        for usual, count in sizes.most_common(1):
            large = [dot for dot in self._dots if dot[0] >= JOINED * usual] if count > len(self._dots) / 2 else []
            for pixels, file in large:
                sentence = f"{file}: a dot has {pixels} pixels where most have {usual}; it may be two that touch."
                self.faults.warning("dots that may be two", sentence)
        if self._size is None and self._largest <= 1 and not self._whole:
            raise ValueError(
                f"{self.source}: all coordinates lie within 0..1 and are no pixel indices: add the option "
                "unit=fraction if they are shares of the image's width and height."
            )

    def _read_table(self) -> Mapping[str, Entry | Callable[[int, int], Entry]]:
        suffix = self.source.suffix.lower()
        if suffix == ".csv":
            return read_csv(self.source)
        if suffix == ".json":
            return read_coco(self.source, self.faults)
        raise ValueError(f"{self.source} is no source of points: a folder, a .json or a .csv file is expected.")

    def _find_in_table(self, name: str, height: int, width: int) -> Entry | None:
        key = self._names.find(name)
        entry = None if key is None else self._table[key]
        return entry(height, width) if callable(entry) else entry

    def _find_in_folder(self, name: str, height: int, width: int) -> Entry | None:
        for spelling in spellings(name):
            for suffix, read in FOLDER_READERS.items():
                path = self.source / f"{spelling}{suffix}"
                if path.is_file():
                    return read(path)
            path = find_mask(self.source, spelling)
            if path is not None:
                return self._read_dots(path, name, height, width)
        return None

    def _read_dots(self, path: Path, name: str, height: int, width: int) -> Entry:
        """Return a pixel of each white region of a point image, in the order of rows."""
        size = image_size(path)
        if size != (height, width):
            raise SizeMismatch(
                f"points {path} are {size[1]}x{size[0]} pixels but its image '{name}' is {width}x{height}."
            )
        mask = read_mask(path)
        points = [(x, y) for x, y in points_from_mask(mask)]
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        self._dots += [(int(pixels), path) for pixels in stats[1:, cv2.CC_STAT_AREA]]
        pixels = int(np.count_nonzero(mask))
        if pixels > len(points):
            if pixels > LARGEST_DOT * mask.size:
                raise ValueError(f"{path}: {pixels} of {mask.size} pixels are white, which are no points.")
            sentence = f"{path}: {len(points)} dots have {pixels} pixels; each becomes the pixel at its center."
            self.faults.repaired("images with dots of several pixels", sentence)
        return Entry(path, sorted(points, key=lambda point: point[::-1]), index=True)

    def _pixels(self, entry: Entry, name: str, height: int, width: int) -> PointList:
        """Turn the coordinates of an entry into pixel indices of the image."""
        size = FRACTIONS if entry.size == FRACTIONS else self._size
        offset = 0.0
        if size is None:
            values = [abs(value) for point in entry.points for value in point]
            self._largest = max([self._largest, *values])
            self._whole &= all(float(value).is_integer() for value in values)
            offset = 0.5 if entry.index else 0.0
            size = entry.size or (width, height)
            if size != (width, height):
                self._check_ratio(entry, name, height, width)
                sentence = (
                    f"{entry.file}: its image '{name}' has {size[0]:g}x{size[1]:g} pixels, and the image here "
                    f"{width}x{height}; its points are scaled."
                )
                self.faults.repaired("images with points of another resolution", sentence)
        if size == (width, height):
            return [[math.floor(x + offset), math.floor(y + offset)] for x, y in entry.points]
        return [[_scaled(x + offset, size[0], width), _scaled(y + offset, size[1], height)] for x, y in entry.points]

    @staticmethod
    def _check_ratio(entry: Entry, name: str, height: int, width: int) -> None:
        """Raise SizeMismatch if the sides of the file's image are not, within a pixel, in the ratio of the image's."""
        own_width, own_height = entry.size
        if abs(own_width * height - own_height * width) > max(height, width, own_height, own_width):
            raise SizeMismatch(
                f"{entry.file}: its image '{name}' has {own_width:g}x{own_height:g} pixels, and the image here has "
                f"{width}x{height}, which is another shape."
            )


def _scaled(value: float, size: float, pixels: int) -> int:
    """Return the pixel that holds a coordinate of 0..size on a side of `pixels` pixels; the far edge is its last."""
    scaled = value * pixels / size
    return pixels - 1 if abs(scaled - pixels) <= ROUNDING else math.floor(scaled + ROUNDING)


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
        x, y = nearest_on_target(target, center) if kind == "centroid" else _near_center(target, center, generator)
        points.append([x + left, y + top])
    return points


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
