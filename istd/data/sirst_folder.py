"""The rules by which a SIRST-style folder gives images, masks and points."""

import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from d2kit.faults import Faults
from istd.data.frames import count_frames, frame_path, require_whole, split_frame, tell_other_pages
from istd.data.images import SizeMismatch, find_image, image_size, orientation_problem
from istd.data.mask_files import check_frame_mask, check_missing, find_mask, mask_folder
from istd.data.names import NameTable, check_inside, image_files, image_key, spellings
from istd.data.points import PointSource
from istd.data.text import read_text

CHARACTERISTICS = "characteristics.csv"
ON_MISMATCH = ("error", "skip")


class SirstFolder:
    """A split of a folder of images, masks and points.

    Args:
        root: folder of the data set; the paths below are absolute or relative to it.
        split: text file with one image name per line, with or without extension ("train" means "train.txt").
        points: source of points, see `PointSource`; "" means no points (inference, full supervision).
        unit: unit of the points' coordinates, see `PointSource`.
        images: folder of images with any of EXTENSIONS.
        masks: folder of masks, named as in `find_mask`; "" means no masks. An image without a mask has no "mask_file".
            The default "masks" also stands for the folders of `mask_folder`.
        characteristics: CSV with the columns image, characteristic; "" takes `root`/characteristics.csv if it exists.
        on_mismatch: "error", or "skip" to skip, with a warning, images whose mask or points have another size.

    Attributes:
        root, images: the folders.
        masks: folder of masks that `read` found, or None.
        characteristics: CSV of the characteristics, or "" for the default.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        *,
        points: str = "masks_centroid",
        unit: str = "pixels",
        images: str = "images",
        masks: str = "masks",
        characteristics: str = "",
        on_mismatch: str = "error",
    ):
        if on_mismatch not in ON_MISMATCH:
            raise ValueError(f"on_mismatch must be 'error' or 'skip', not '{on_mismatch}'.")
        self.root = Path(root)
        self._split = split
        self.images = self.root / images
        self._mask_option = masks
        self.masks: Path | None = None  # `read` finds the folder.
        self._checked: set[tuple[Path, Path | None]] = set()  # sequences and where masks of their frames lie
        self._points = self.root / points if points else None
        self._unit = unit
        self.characteristics = characteristics
        self._skips = on_mismatch == "skip"

    def read(self, faults: Faults) -> list[dict]:
        """Read the split; faults of single images are added to `faults` instead of raised.

        Returns:
            the dicts of `istd.data.datasets.load_sirst`, of the images without a fault.

        Raises:
            FileNotFoundError, ValueError: a file or a folder of all images is absent or unfit; the message names it.
        """
        split_file = _split_file(self.root, self._split)
        self.masks = mask_folder(self.root, self._mask_option, faults.add) if self._mask_option else None
        for folder in filter(None, (self.images, self.masks)):
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder} is not a folder: the data set of {split_file} needs it.")
        source = self._point_source(faults)
        characteristic_of = _read_characteristics(self.root, self.characteristics)
        dicts = []
        for record in self._read_images(split_file, source, faults):
            characteristic = next(filter(None, map(characteristic_of, self._names(record))), None)
            dicts.append(record | ({"characteristic": characteristic} if characteristic else {}))
        if source is not None:
            _collect(faults, "unit of the points", source.check_all)
        if self.masks is not None and dicts:
            _collect(
                faults,
                "names of the masks",
                lambda: check_missing(dicts, self.masks, self.images, faults.add),
            )
        return dicts

    def _point_source(self, faults: Faults) -> PointSource | None:
        if self._points is None:
            return None
        if self._points == self.root / self._mask_option and self.masks is not None:
            return PointSource(self.masks, self._unit, faults)
        if not self._points.exists() and self.masks is not None:
            raise FileNotFoundError(
                f"the points '{self._points}' do not exist: `istd points {self.masks} --output {self._points}` makes "
                "them from the masks, and the option points= means that there are none."
            )
        return PointSource(self._points, self._unit, faults)

    def _read_images(self, split_file: Path, source: PointSource | None, faults: Faults) -> Iterator[dict]:
        """Yield the dict of each image and frame that the split names and that has no fault."""
        seen: set[str] = set()
        for name in _read_split(split_file):
            try:
                images = self._find_images(name, split_file, faults)
            except (ValueError, OSError) as error:
                faults.error("images", error)
                continue
            for image_id, path in images:
                if image_id in seen:
                    faults.error("images", f"{split_file} names image '{image_id}' twice.")
                    continue
                seen.add(image_id)
                record = {"file_name": str(path), "image_id": image_id}
                if self._complete(record, source, split_file, faults):
                    yield record

    def _find_images(self, name: str, split_file: Path, faults: Faults) -> list[tuple[str, Path]]:
        """Return the ids and paths of what a line of the split names: an image, a frame, or all frames of a file."""
        check_inside(name, split_file)
        path = _find(self.images, name)
        if path is None and name.startswith(f"{self.images.name}/"):
            name = name.partition("/")[2]
            path = _find(self.images, name)
        if path is None:
            raise FileNotFoundError(f"{split_file} names image '{name}', which is not in {self.images}.")
        file, number = split_frame(path)
        require_whole(file)
        if number is None and count_frames(file) == 1:
            return [(image_key(name), path)]
        tell_other_pages(file, faults.add)
        numbers = range(count_frames(file)) if number is None else [number]
        frames = (Path(frame_path(file, frame)) for frame in numbers)
        return [(image_key(frame.relative_to(self.images)), frame) for frame in frames]

    def _complete(self, record: dict, source: PointSource | None, split_file: Path, faults: Faults) -> bool:
        """Add size, mask and points to the dict of an image, and return whether it has no fault."""
        steps = {
            "images": lambda: self._add_size(record, faults),
            "masks": lambda: self._add_mask(record),
            "points": lambda: self._add_points(record, source, split_file),
        }
        for cause, step in steps.items():
            try:
                step()
            except SizeMismatch as error:
                if self._skips:
                    faults.repaired("images that are left out", f"{error} The image is skipped.")
                else:
                    faults.error(f"{cause} of another size", error)
                return False
            except (ValueError, OSError) as error:
                faults.error(cause, error)
                return False
        return True

    def _add_size(self, record: dict, faults: Faults) -> None:
        record["height"], record["width"] = image_size(record["file_name"])
        problem = orientation_problem(record["file_name"]) if self.masks or self._points else ""
        if problem:
            faults.warning("images with an EXIF orientation", problem)

    def _names(self, record: dict) -> list[str]:
        """Return the names of an image: its id, and its id without folders if no other image is called like that.

        The names of a frame are those of its file, with and without extension, and the number of any length.
        """
        file, number = split_frame(record["file_name"])
        image_id = record["image_id"] if number is None else image_key(file.relative_to(self.images))
        short = PurePosixPath(image_id).name
        names = [image_id, short] if "/" in image_id and self._short_names[short] == 1 else [image_id]
        if number is None:
            return names
        numbers = dict.fromkeys(f"{number:0{length}}" for length in range(6, 0, -1))
        return [f"{name}{end}/{text}" for name in names for end in (file.suffix, "") for text in numbers]

    @cached_property
    def _short_names(self) -> Counter:
        return Counter(PurePosixPath(image_key(path)).name for path in image_files(self.images))

    def _add_mask(self, record: dict) -> None:
        if self.masks is None:
            return
        names = [spelling for name in self._names(record) for spelling in spellings(name)]
        path = next(filter(None, (find_mask(self.masks, name, self.images) for name in names)), None)
        file, number = split_frame(record["file_name"])
        clip = (file, path and path.parent)
        if number is not None and clip not in self._checked:
            self._checked.add(clip)
            check_frame_mask(file, path, names, self.masks, self.images)
        if path is None:
            return
        height, width = image_size(path)
        if (height, width) != (record["height"], record["width"]):
            raise SizeMismatch(
                f"mask {path} is {width}x{height} pixels but its image {record['file_name']} is "
                f"{record['width']}x{record['height']}."
            )
        record["mask_file"] = str(path)

    @staticmethod
    def _points_by(source: PointSource, names: list[str], height: int, width: int) -> list[list[int]] | None:
        for name in names:
            try:
                return source(name, height, width)
            except KeyError:
                continue
        return None

    def _add_points(self, record: dict, source: PointSource | None, split_file: Path) -> None:
        if source is None:
            return
        points = self._points_by(source, self._names(record), record["height"], record["width"])
        if points is None:
            raise ValueError(
                f"{split_file} names image '{record['image_id']}', which has no points in {source.source}."
            )
        record["points"] = points


def _collect(faults: Faults, cause: str, check: Callable[[], None]) -> None:
    try:
        check()
    except ValueError as error:
        faults.error(cause, error)


def _find(folder: Path, name: str) -> Path | None:
    """Return the image of a name in a folder, in whatever form of Unicode, or None."""
    return next(filter(None, (find_image(folder, spelling) for spelling in spellings(name))), None)


def _split_file(root: Path, split: str) -> Path:
    for path in (root / split, root / f"{split}.txt"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"the split file {root / split} does not exist.")


def _read_split(path: Path) -> list[str]:
    """Return the names of a split, with forward slashes."""
    lines = (line.strip().replace("\\", "/").removeprefix("./") for line in read_text(path).splitlines())
    names = [unicodedata.normalize("NFC", line) for line in lines if line]
    seen: set[str] = set()
    for name in names:
        key = image_key(name)
        if key in seen:
            raise ValueError(f"{path} names image '{key}' twice.")
        seen.add(key)
    return names


def _read_characteristics(root: Path, option: str) -> Callable[[str], str | None]:
    """Return the function from an image id to its characteristic, or None."""
    path = root / (option or CHARACTERISTICS)
    if not path.is_file():
        if option:
            raise FileNotFoundError(f"the characteristics {path} do not exist.")
        return lambda image_id: None
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if not {"image", "characteristic"} <= set(reader.fieldnames or ()):
        raise ValueError(f"{path} has the columns {reader.fieldnames}: image and characteristic are expected.")
    table = {image_key(row["image"]): row["characteristic"] for row in reader}
    names = NameTable(table, path)
    return lambda image_id: table.get(names.find(image_id) or "")
