"""Reading of infrared images and masks in any common format; each error names the file in one sentence."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from d2kit.exif import orientation_of
from d2kit.faults import Report, log_once
from d2kit.files import read_picture
from d2kit.limits import max_pixels
from istd.data.arrays import ARRAY_EXTENSIONS, open_array
from istd.data.frames import (
    TIFF_EXTENSIONS,
    count_frames,
    frame_path,
    frame_stack,
    page_number,
    read_frame,
    require_whole,
    split_frame,
    tell_other_pages,
)
from istd.data.mask_values import byte_values, foreground, has_color, largest_channel
from istd.data.sensor import RANGES, gray_from_raw, parse_range

JPEG_EXTENSIONS = (".jpg", ".jpeg")
EXTENSIONS = (".png", ".bmp", *JPEG_EXTENSIONS, *TIFF_EXTENSIONS, *ARRAY_EXTENSIONS)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as in Pillow's own conversion
BYTE_MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class BadImageError(ValueError):
    """An image file cannot be read or does not fit the image that it belongs to."""


class SizeMismatch(BadImageError):
    """A mask or a point image has another size than its image."""


def image_name(text: str | os.PathLike) -> str:
    """Return the name of an image without folder and extension; other dots remain."""
    path = Path(text)
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def read_infrared(path: str | os.PathLike, value_range: str = RANGES[0], report: Report = log_once) -> np.ndarray:
    """Read an image as gray values.

    8-bit files keep their values; color and palette files become luma (ITU-R 601, rounded); transparency is ignored.
    Files with more than 8 bits (16-bit PNG and TIFF, float TIFF, .npy and .raw of `open_array`) are repaired and scaled
    by `value_range`, see `gray_from_raw`. A file of several images gives its first one, with a warning.

    Args:
        path: file of the image, or path of a frame, see `istd.data.frames`.
        value_range: "percentiles", "type" or "LOW..HIGH".
        report: function that gets repairs and warnings.

    Returns:
        (H, W) float32 gray values 0..255.

    Raises:
        BadImageError: the file is no image, is damaged, has more than 4 channels, or more pixels than INPUT.MAX_PIXELS.
        FileNotFoundError: the file does not exist.
    """
    parse_range(value_range)
    with _naming(path):
        _report_frames(path, report)
        values = read_frame(path, _check_size)
        if values is None:
            byte_image = _read_bytes(path, _luma_bytes, report)
            if byte_image is not None:
                return byte_image.astype(np.float32)
            values = _read_deep(path)
        gray = _channels(values, path, _luma)
        if gray.dtype == np.uint8:
            return gray.astype(np.float32)
        return gray_from_raw(gray, value_range, os.fspath(path), report)


def read_mask(path: str | os.PathLike, report: Report = log_once) -> np.ndarray:
    """Read a mask as (H, W) uint8, 1 on targets, by the rules of `istd.data.mask_values`.

    A mask may have 0/255 or 0/1 of any depth, soft borders (targets are above half of the file's largest value),
    numbers of instances, a palette (index 0 is the background), colors of instances (the largest channel counts), or
    its values in the alpha channel. Some stray values beside white are left out and reported.

    Raises:
        BadImageError, FileNotFoundError: see `read_infrared`; the targets may also be ambiguous or most of the mask.
    """
    with _naming(path):
        _report_frames(path, report)
        array = read_frame(path, _check_size)
        content = _read_bytes(path, byte_values, report) if array is None else None
        if content is None:
            array = _read_deep(path) if array is None else array
            content = _channels(array, path, largest_channel), has_color(array)
        values, is_colored = content
        is_lossy = Path(path).suffix.lower() in JPEG_EXTENSIONS
        try:
            mask, stray = foreground(values, is_lossy, is_colored)
        except ValueError as error:
            raise BadImageError(f"{os.fspath(path)} is no clear mask: {error}.") from error
        if stray:
            sentence = f"{os.fspath(path)}: {stray} pixels beside white are at most half as bright and are no target."
            report("repaired", "stray values in a mask", sentence, 1)
        return mask


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Read height and width from the file's header; all frames of a file have the same."""
    path, _ = split_frame(path)
    with _naming(path):
        if _is_array(path):
            return frame_stack(open_array(path)).shape[1:3]
        try:
            with _open(path) as image:
                return image.height, image.width
        except UnidentifiedImageError:
            with tifffile.TiffFile(path) as file:
                return file.pages[0].imagelength, file.pages[0].imagewidth


def orientation_problem(path: str | os.PathLike) -> str:
    """Return a sentence about the EXIF orientation of an image, by which viewers turn or mirror it; "" without one."""
    if _is_array(path) or split_frame(path)[1] is not None:
        return ""
    try:
        with _open(path) as image:
            orientation, shown = orientation_of(image), image.format == "TIFF"  # Pillow turns a TIFF, and only a TIFF.
    except UnidentifiedImageError:
        return ""
    if orientation == 1:
        return ""
    frame = "shown" if shown else "stored"
    return (
        f"{os.fspath(path)} has the EXIF orientation {orientation}, and is read as it is {frame}: draw its mask or "
        "points over it, and if they are turned or mirrored, save the image as it is shown and without the tag."
    )


def find_image(folder: str | os.PathLike, name: str, suffixes: Sequence[str] = ("", "_pixels0")) -> Path | None:
    """Find the image of `name` (with or without extension) in `folder`, or return None.

    For a name without extension, each of `suffixes` is put behind the name, and EXTENSIONS are tried in order, in lower
    and upper case. The default knows NAME_pixels0, as in the masks of NUAA-SIRST. A name such as clip/000003 is also
    that of a frame of clip.tif.
    """
    folder = Path(folder)
    return _find_file(folder, name, suffixes) or _find_frame(folder, name, suffixes)


def _find_frame(folder: Path, name: str, suffixes: Sequence[str]) -> Path | None:
    stem, _, number = name.rpartition("/")
    file = _find_file(folder, stem, suffixes) if stem and number.isdecimal() else None
    if file is None or not int(number) < count_frames(file) > 1:
        return None
    return Path(frame_path(file, int(number)))


def _find_file(folder: Path, name: str, suffixes: Sequence[str]) -> Path | None:
    if not (folder / name).parent.is_dir():
        return None
    if Path(name).suffix.lower() in EXTENSIONS:
        if (folder / name).is_file():
            return folder / name
        name = str(Path(name).with_suffix(""))
    for stem in (f"{name}{suffix}" for suffix in suffixes):
        for extension in EXTENSIONS:
            for path in (folder / f"{stem}{extension}", folder / f"{stem}{extension.upper()}"):
                if path.is_file():
                    return path
    return None


def stretch(gray: np.ndarray) -> np.ndarray:
    """Map the 1st to the 99.9th percentile of (H, W) float gray values to 0..255, for display."""
    low, high = np.percentile(gray, (1, 99.9))
    return np.clip((gray - low) / max(high - low, 1e-6) * 255, 0, 255)


@contextlib.contextmanager
def _naming(path: str | os.PathLike):
    """Turn the libraries' exceptions into one sentence that names the file."""
    try:
        yield
    except (FileNotFoundError, BadImageError):
        raise
    except Exception as error:  # Decoders raise many types on damaged bytes: zlib.error, struct.error, TypeError.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(f"{os.fspath(path)} cannot be read as an image ({reason}).") from error


@contextlib.contextmanager
def _open(path: str | os.PathLike):
    """Open an image or a frame with Pillow under the limit INPUT.MAX_PIXELS instead of Pillow's own."""
    pillow_limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(split_frame(path)[0]) as image:
            image.seek(page_number(path))
            _check_size(image.height, image.width)
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = pillow_limit


def _check_size(height: int, width: int) -> None:
    if int(height) * int(width) > max_pixels():  # Damaged TIFF headers give tuples, which int refuses.
        limit = f"{max_pixels()} (INPUT.MAX_PIXELS)"
        raise ValueError(f"it has {width}x{height} pixels, which is more than {limit}")


def _luma_bytes(image: Image.Image) -> np.ndarray:
    return np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))


def _is_array(path: str | os.PathLike) -> bool:
    return Path(path).suffix.lower() in ARRAY_EXTENSIONS


def _report_frames(path: str | os.PathLike, report: Report) -> None:
    """Report that only the first of several images is read; ValueError if a TIFF file is not whole."""
    require_whole(path)
    _report_first(path, count_frames(path), report)
    tell_other_pages(path, report)


def _report_first(path: str | os.PathLike, count: int, report: Report) -> None:
    if count > 1:
        sentence = f"{os.fspath(path)} holds {count} images, of which the first is read."
        report("warning", "several images in a file", sentence, 1)


def _read_bytes(path: str | os.PathLike, convert: Callable[[Image.Image], Any], report: Report = log_once) -> Any:
    """Return what `convert` makes of a file with at most 8 bits; return None for a deeper file."""
    if _is_array(path):
        return None
    try:
        with _open(path) as image:
            if image.format == "PNG":  # An animation; frames of TIFF files are images of their own.
                _report_first(path, getattr(image, "n_frames", 1), report)
            if any(data.startswith(b"FLIR\0") for _, data in getattr(image, "applist", ())):
                sentence = (
                    f"{os.fspath(path)} is a radiometric JPEG of FLIR: its preview is read, not its raw data. Save the "
                    "raw data as 16-bit TIFF, for example with exiftool -b -RawThermalImage."
                )
                report("warning", "previews of radiometric data", sentence, 1)
            if image.mode not in BYTE_MODES or _has_deep_color(image):
                return None
            image.load()
            return convert(image)
    except UnidentifiedImageError:
        if split_frame(path)[0].suffix.lower() in TIFF_EXTENSIONS:
            return None  # Pillow does not know every TIFF, for example 16-bit color.
        raise


def _has_deep_color(image: Image.Image) -> bool:
    """Whether Pillow would reduce 16-bit color to 8 bits, which its raw mode shows."""
    return any("16" in str(tile[3]) for tile in image.tile)


def _read_deep(path: str | os.PathLike) -> np.ndarray:
    """Read an (H, W) or (H, W, C) array of the file's own type, with colors in the order RGB."""
    if _is_array(path):
        first = frame_stack(open_array(path))[0]
        _check_size(*first.shape[:2])
        return np.array(first)
    file, _ = split_frame(path)
    is_tiff = file.suffix.lower() in TIFF_EXTENSIONS
    try:
        with _open(path) as image:
            is_deep_color = _has_deep_color(image) and image.mode in BYTE_MODES
            image.load()  # This finds truncated files, which OpenCV accepts.
            if not is_deep_color:
                return np.asarray(image)
    except UnidentifiedImageError:
        if not is_tiff:
            raise
    if is_tiff:
        with tifffile.TiffFile(file) as tiff:
            _check_size(tiff.pages[0].imagelength, tiff.pages[0].imagewidth)
            array = tiff.asarray(key=page_number(path))
        if not array.size:
            raise ValueError("it holds no image")
        return array
    array = read_picture(path, cv2.IMREAD_UNCHANGED)
    if array is None:
        raise BadImageError(f"{os.fspath(path)} cannot be read as an image.")
    return array[..., [2, 1, 0, 3][: array.shape[2]]] if array.ndim == 3 else array


def _luma(color: np.ndarray) -> np.ndarray:
    """Turn (H, W, C) into (H, W) gray values of the same type; two channels are gray and alpha."""
    if color.shape[2] == 2:
        return color[..., 0]
    gray = color[..., :3].astype(np.float32) @ LUMA
    return np.rint(gray).astype(color.dtype) if np.issubdtype(color.dtype, np.integer) else gray


def _channels(array: np.ndarray, path: str | os.PathLike, merge: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return (H, W) values of an (H, W) or (H, W, C) array; `merge` turns two to four channels into one."""
    if array.ndim == 3 and array.shape[2] in (2, 3, 4):
        return merge(array)
    if array.ndim == 3 and array.shape[2] == 1:
        return array[..., 0]
    if array.ndim != 2:
        raise BadImageError(f"{os.fspath(path)} has shape {array.shape}: one image of 1 to 4 channels is expected.")
    return array
