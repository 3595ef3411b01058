"""Where the masks of a data set are, and what is wrong with them: names, folders, contents."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from istd.data.images import EXTENSIONS, JPEG_EXTENSIONS, BadImageError, find_image, image_name, read_mask
from istd.data.report import Report, log_once

MASK_FOLDERS = ("masks", "mask", "label", "labels", "gt")
MASK_SUFFIXES = ("", "_pixels0", "_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_GT")  # behind the name


def mask_folder(root: Path, option: str, report: Report = log_once) -> Path:
    """Return the folder of masks.

    Args:
        root: folder of the data set.
        option: name of the folder of masks. If it is the default "masks", which does not exist, the first of
            MASK_FOLDERS that holds images is taken instead.
        report: function that gets the notice that another folder is taken.
    """
    folder = root / option
    if folder.is_dir() or option != MASK_FOLDERS[0]:
        return folder
    for name in MASK_FOLDERS[1:]:
        other = root / name
        if other.is_dir() and any(path.suffix.lower() in EXTENSIONS for path in other.rglob("*")):
            report("repaired", "another folder of masks", f"{folder} does not exist: masks are read from {other}.", 1)
            return other
    return folder


def find_mask(folder: Path, name: str, images: Path | None = None) -> Path | None:
    """Return the mask of image `name`, without extension, or None.

    Args:
        folder: folder of the masks.
        name: name of the image; the mask has this name, or one of MASK_SUFFIXES behind it.
        images: folder of the images. If it is the same, the name alone is the image's own.
    """
    beside_images = images is not None and images.resolve() == folder.resolve()
    return find_image(folder, name, MASK_SUFFIXES[beside_images:])


def image_of_mask(path: str | os.PathLike) -> str:
    """Return the name of the image that a mask file belongs to, by its own name."""
    name = image_name(path)
    suffix = next((suffix for suffix in MASK_SUFFIXES[1:] if name.endswith(suffix)), "")
    return name.removesuffix(suffix) or name


def check_missing(records: Sequence[dict], folder: Path, images: Path, report: Report = log_once) -> None:
    """Report that images have no mask.

    Args:
        records: dataset dicts of one split, with "mask_file" where a mask was found.
        folder, images: folders of the masks and of the images.
        report: function that gets the warning.

    Raises:
        ValueError: the folder holds masks, and none belongs to any file of `images`, so that names do not fit.
    """
    missing = [record for record in records if "mask_file" not in record]
    if not missing:
        return
    example = os.fspath(missing[0]["file_name"])
    if len(missing) == len(records):
        masks = [path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS]
        pictures = (path for path in images.rglob("*") if path.suffix.lower() in EXTENSIONS)
        names = (str(path.relative_to(images).with_suffix("")) for path in pictures)
        if masks and not any(find_mask(folder, name, images) for name in names):
            raise ValueError(
                f"{folder} has no mask for any image, such as {example}: its files are named like '{min(masks).name}'. "
                "A mask has the name of its image."
            )
    sentence = f"{len(missing)} of {len(records)} images have no mask in {folder}, {example} for one."
    report("warning", "images without a mask", sentence, len(missing))


def check_masks(records: Iterable[dict], report: Report = log_once) -> None:
    """Read all masks of data sets.

    Args:
        records: dataset dicts, with or without "mask_file" and "points".
        report: function that gets repairs and warnings.

    Raises:
        BadImageError: masks cannot be read, are unclear, or are black JPEG files beside points; the sentence names the
            first and says how many there are.
    """
    faults = []
    empty = []
    masks = 0
    for record in records:
        path = record.get("mask_file")
        if path is None:
            continue
        masks += 1
        try:
            has_target = read_mask(path, report).any()
        except (ValueError, OSError) as error:
            faults.append(str(error))
            continue
        if not has_target:
            empty.append(path)
            faults += _fault_of_empty_mask(path, len(record.get("points") or ()), report)
    if faults:
        others = f" In all, {len(faults)} masks have faults." if len(faults) > 1 else ""
        raise BadImageError(faults[0] + others)
    if empty and len(empty) == masks:
        report("warning", "empty masks", f"All {masks} masks are empty, {empty[0]} for one.", masks)


def _fault_of_empty_mask(path: str, points: int, report: Report) -> list[str]:
    """Return the fault of a mask that is black beside points of its image, or report a warning."""
    if not points:
        return []
    sentence = f"mask {path} is all black, but its image has {points} points"
    if Path(path).suffix.lower() in JPEG_EXTENSIONS:
        return [f"{sentence}: a JPEG does not keep a mask of 0 and 1; save it as PNG."]
    report("warning", "empty masks beside points", f"{sentence}.", 1)
    return []
