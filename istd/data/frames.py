"""Sequences of images in one file: TIFF files of several pages and arrays of several images."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from istd.data.arrays import ARRAY_EXTENSIONS, open_array

TIFF_EXTENSIONS = (".tif", ".tiff")


def count_frames(path: str | os.PathLike) -> int:
    """Return the number of images of equal size in a file; it is 1 for files of one image and for damaged files."""
    suffix = Path(path).suffix.lower()
    try:
        if suffix in ARRAY_EXTENSIONS:
            return len(frame_stack(open_array(path)))
        if suffix in TIFF_EXTENSIONS:
            with tifffile.TiffFile(path) as file:
                return _count_pages(file)
    except Exception:  # The reader of the image tells the fault.
        return 1
    return 1


def iterate_frames(path: str | os.PathLike) -> Iterator[np.ndarray]:
    """Iterate over the images of a file of several, (H, W) or (H, W, C) arrays of the file's own type."""
    if Path(path).suffix.lower() in ARRAY_EXTENSIONS:
        yield from frame_stack(open_array(path))
        return
    with tifffile.TiffFile(path) as file:
        count = _count_pages(file)
        pages = _frame_pages(file)
        if len(pages) == count:
            for page in pages:
                yield page.asarray()
        else:  # ImageJ keeps large sequences behind a single page.
            yield from _series_stack(file)


def frame_stack(array: np.ndarray) -> np.ndarray:
    """Return an array of N images as (N, H, W) or (N, H, W, C); a single image gets N = 1."""
    is_single = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    return array[None] if is_single else array


def _frame_pages(file: tifffile.TiffFile) -> list:
    """Return the pages that have the size and type of the first; thumbnails and masks have another."""
    first = file.pages[0].keyframe
    return [page for page in file.pages if (page.shape, page.dtype) == (first.shape, first.dtype)]


def _series_stack(file: tifffile.TiffFile) -> np.ndarray:
    series = file.series[0]
    shape = file.pages[0].shape
    return series.asarray().reshape(-1, *shape)


def _count_pages(file: tifffile.TiffFile) -> int:
    pages = _frame_pages(file)
    page_size = int(np.prod(pages[0].shape))
    if file.is_imagej and len(pages) == 1 and page_size:
        return max(1, int(np.prod(file.series[0].shape)) // page_size)
    return len(pages)
