"""Sequences of images in one file: TIFF files of several pages and arrays of several images.

A frame has a path of its own, which is the path of its file and its number: images/clip.tif/000003 is the fourth frame
of images/clip.tif. Readers of images and masks take such a path like that of any other file.
"""

import os
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from d2kit.faults import Report
from istd.data.arrays import ARRAY_EXTENSIONS, open_array

TIFF_EXTENSIONS = (".tif", ".tiff")
STACK_EXTENSIONS = (*TIFF_EXTENSIONS, *ARRAY_EXTENSIONS)
BITS = (8, 16, 32, 64)  # of a value in the pages that need no conversion
PLAIN = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
REDUCED_OR_MASK = 5  # bits of TIFF's tag NewSubfileType
ORIENTATION = 274  # tag of TIFF


class Stack(NamedTuple):
    """The frames of a file.

    Attributes:
        count: number of frames; 1 for a file of one image, and for a damaged one.
        pages: numbers of the pages of a TIFF file that are frames; empty for other files.
        others: pages that are neither frames nor thumbnails or masks, as they have another size or type than the first.
        is_whole: whether all pages of a TIFF file are there.
    """

    count: int = 1
    pages: tuple[int, ...] = ()
    others: int = 0
    is_whole: bool = True


def frame_path(path: str | os.PathLike, number: int) -> str:
    """Return the path of a frame of a file; frames are numbered from 0."""
    return f"{os.fspath(path)}/{number:06}"


def split_frame(path: str | os.PathLike) -> tuple[Path, int | None]:
    """Return the file and the number of the frame that a path names; the number of a file itself is None."""
    path = Path(path)
    if path.name.isdecimal() and path.parent.suffix.lower() in STACK_EXTENSIONS and path.parent.is_file():
        return path.parent, int(path.name)
    return path, None


def count_frames(path: str | os.PathLike) -> int:
    """Return the number of images of equal size in a file; it is 1 for files of one image and for damaged files."""
    return _stack_of(path).count


def require_whole(path: str | os.PathLike) -> None:
    """Raise ValueError if pages of a TIFF file are missing at its end, as in a file that was cut off."""
    stack = _stack_of(path)
    if not stack.is_whole:
        raise ValueError(f"{os.fspath(path)} is cut off or damaged: of its pages, only {stack.count} can be found.")


def tell_other_pages(path: str | os.PathLike, report: Report) -> None:
    """Report the pages of a TIFF file that are no frames."""
    others = _stack_of(path).others
    if others:
        sentence = f"{os.fspath(path)} has {others} pages of another size or type than the first, which are left out."
        report("warning", "pages of another size or type", sentence, others)


def read_frame(path: str | os.PathLike, check_size: Callable[[int, int], None]) -> np.ndarray | None:
    """Read the frame that a path names.

    Args:
        path: path of a frame, or of any other file.
        check_size: function (height, width) that raises for too many pixels.

    Returns:
        (H, W) or (H, W, C) array of the file's own type; None for other files, and for pages whose values another
        reader has to decode or to convert: those of palettes, of 1 bit, turned ones, or with white as 0.
    """
    file, number = split_frame(path)
    if number is None:
        return None
    if not number < count_frames(file):
        raise ValueError(f"{file} has {count_frames(file)} frames, and none of number {number}")
    if file.suffix.lower() in ARRAY_EXTENSIONS:
        frame = frame_stack(open_array(file))[number]
        check_size(*frame.shape[:2])
        return np.array(frame)
    with tifffile.TiffFile(file) as tiff:
        first = tiff.pages[0]
        check_size(first.imagelength, first.imagewidth)
        if len(_stack_of(file).pages) < count_frames(file):  # ImageJ keeps large sequences behind a single page.
            series = tiff.series[0]
            dtype = series.dtype.newbyteorder(tiff.byteorder)
            shape = (count_frames(file), *first.shape)
            return np.array(np.memmap(file, dtype, "r", series.dataoffset, shape)[number], series.dtype)
        page = tiff.pages[_stack_of(file).pages[number]]
        is_plain = page.photometric in PLAIN and page.bitspersample in BITS and not page.axes.startswith("S")
        if not is_plain or page.tags.valueof(ORIENTATION, 1) != 1:
            return None
        try:
            return page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return None


def page_number(path: str | os.PathLike) -> int:
    """Return the number of the page that a path of a frame names in its TIFF file; 0 for other files."""
    file, number = split_frame(path)
    pages = _stack_of(file).pages if number else ()
    return pages[number] if pages else 0


def frame_stack(array: np.ndarray) -> np.ndarray:
    """Return an array of N images as (N, H, W) or (N, H, W, C); a single image gets N = 1."""
    is_single = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    return array[None] if is_single else array


def _stack_of(path: str | os.PathLike) -> Stack:
    suffix = Path(path).suffix.lower()
    try:
        if suffix in ARRAY_EXTENSIONS:
            return Stack(len(frame_stack(open_array(path))))
        if suffix in TIFF_EXTENSIONS:
            state = os.stat(path)
            return _read_stack(os.fspath(path), state.st_size, state.st_mtime_ns)
    except Exception:  # The reader of the image tells the fault.
        return Stack()
    return Stack()


@lru_cache(maxsize=4096)
def _read_stack(path: str, size: int, time: int) -> Stack:
    """Return the frames of a TIFF file, whose size and time of change make them new if they differ."""
    with tifffile.TiffFile(path) as file:
        first = file.pages[0]
        number_of_pages, is_whole = _count_pages(file)
        frames, others = [0], 0
        for number in range(1, number_of_pages):
            try:
                page = file.pages[number]
            except Exception:  # tifffile raises many types for damaged pages.
                is_whole = False
                break
            if (page.shape, page.dtype) == (first.shape, first.dtype):
                frames.append(number)
            elif not page.subfiletype & REDUCED_OR_MASK:
                others += 1
        count = len(frames)
        pixels = int(np.prod(first.shape))
        if file.is_imagej and count == 1 and pixels:
            count = max(1, int(np.prod(file.series[0].shape)) // pixels)
        return Stack(count, tuple(frames), others, is_whole)


def _count_pages(file: tifffile.TiffFile) -> tuple[int, bool]:
    """Follow the chain of pages, which may end beyond the file or in a ring; return its length, and if it is whole."""
    tiff, handle = file.tiff, file.filehandle
    places: set[int] = set()

    def number(form: str, size: int) -> int:
        return struct.unpack(form, handle.read(size))[0]

    handle.seek(8 if tiff.is_bigtiff else 4)
    try:
        place = number(tiff.offsetformat, tiff.offsetsize)
        while place and place not in places:
            handle.seek(place)
            handle.seek(number(tiff.tagnoformat, tiff.tagnosize) * tiff.tagsize, os.SEEK_CUR)
            following = number(tiff.offsetformat, tiff.offsetsize)
            places.add(place)
            place = following
    except (struct.error, OSError, ValueError, OverflowError):
        return len(places), False
    return len(places), not place
