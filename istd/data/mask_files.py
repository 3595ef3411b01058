"""Where the masks of a data set are, and what is wrong with them: names, folders, contents."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from d2kit.faults import Report, log_once
from istd.data.frames import count_frames, require_whole, split_frame
from istd.data.images import EXTENSIONS, find_image
from istd.data.names import image_files, image_key

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
        if other.is_dir() and image_files(other):
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
    """Return the id of the image that a mask file belongs to, by its path below the folder of masks."""
    name = image_key(path)
    suffix = next((suffix for suffix in MASK_SUFFIXES[1:] if name.endswith(suffix)), "")
    return name.removesuffix(suffix) or name


def check_frame_mask(file: Path, mask: Path | None, names: Sequence[str], folder: Path, images: Path) -> None:
    """Raise ValueError if the masks of a sequence do not fit its frames: there are more or fewer, or one for all.

    Args:
        file: file of the sequence.
        mask: mask of one of its frames, a file or a frame of one, or None.
        names: names that the mask may have.
        folder, images: folders of the masks and of the images.
    """
    frames = count_frames(file)
    if mask is None:
        clips = (find_mask(folder, name, images) for name in dict.fromkeys(n.rpartition("/")[0] for n in names))
        single = next(filter(None, clips), None)
        if single is not None:
            raise ValueError(
                f"mask {single} has {count_frames(single)} images, but {file} has {frames} frames: a mask of as many "
                f"pages, or masks named like {single.with_suffix('')}/000000.png, are needed."
            )
        return
    stack, number = split_frame(mask)
    if number is not None:
        require_whole(stack)
        first, last, folder = 0, count_frames(stack) - 1, stack
    else:
        folder = mask.parent
        matches = (re.match(r"\d+", path.name) for path in folder.iterdir())
        numbers = sorted(int(match[0]) for match in matches if match)
        first, last = numbers[0], numbers[-1]
    # Masks that begin at 1 are most likely numbered from 1, and each would serve the frame behind its own.
    if first == 1 or last >= frames or (number is not None and last < frames - 1):
        raise ValueError(
            f"the masks {folder} are numbered {first} to {last}, but the frames of {file} 0 to {frames - 1}."
        )


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
        masks = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        names = (image_key(path.relative_to(images)) for path in image_files(images))
        short = (name for key in names for name in (key, key.rpartition("/")[2]))
        if masks and not any(find_mask(folder, name, images) for name in short):
            raise ValueError(
                f"{folder} has no mask for any image, such as {example}: its files are named like '{min(masks).name}'. "
                f"A mask has the name of its image, and is of the format {', '.join(EXTENSIONS)}."
            )
    sentence = f"{len(missing)} of {len(records)} images have no mask in {folder}, {example} for one."
    report("warning", "images without a mask", sentence, len(missing))
