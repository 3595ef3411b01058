"""Reading of infrared images and masks in any common format; each error names the file in one sentence."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from istd.data.mask_values import byte_values, foreground

EXTENSIONS = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
DEPTHS = ("range", "type")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as in Pillow's own conversion
MAX_PIXELS = 178_956_970  # Pillow's default, above which it raises an error; detection takes about 40 bytes a pixel
BYTE_MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class BadImageError(ValueError):
    """An image file cannot be read or does not fit the image that it belongs to."""


class SizeMismatch(BadImageError):
    """A mask or a point image has another size than its image."""


def image_name(text: str | os.PathLike) -> str:
    """Return the name of an image without folder and extension; other dots remain."""
    path = Path(text)
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def read_infrared(path: str | os.PathLike, depth: str = "range") -> np.ndarray:
    """Read an image as gray values.

    8-bit files keep their values; color and palette files become luma (ITU-R 601, rounded); transparency is ignored.
    Files with more than 8 bits (16-bit PNG and TIFF, float TIFF; first page) are scaled by `depth`. "range" maps the
    image's own minimum..maximum linearly to 0..255, which suits sensors that use only a part of their 16 bits (a
    constant image becomes 0). "type" maps 0..65535 (float: 0..1) to 0..255, which keeps images comparable.

    Returns:
        (H, W) float32 gray values 0..255.

    Raises:
        BadImageError: the file is no image, is damaged, or has more than 4 channels or MAX_PIXELS pixels.
        FileNotFoundError: the file does not exist.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth must be one of {DEPTHS}, not '{depth}'.")
    with _naming(path):
        byte_image = _read_bytes(path)
        if byte_image is not None:
            return byte_image.astype(np.float32)
        return _scale(_channels(_read_deep(path), path, _luma), depth)


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a mask as (H, W) uint8, 1 on targets, by the rules of `istd.data.mask_values`.

    A mask may have 0/255 or 0/1 of any depth, soft borders (targets are above half of the file's largest value),
    numbers of instances, a palette (index 0 is the background) or colors of instances (the largest channel counts).

    Raises:
        BadImageError, FileNotFoundError: see `read_infrared`; the targets may also be ambiguous.
    """
    with _naming(path):
        values = _read_bytes(path, byte_values)
        if values is None:
            values = _channels(_read_deep(path), path, lambda color: color.max(-1))
        return foreground(values, lossy=Path(path).suffix.lower() in (".jpg", ".jpeg"))


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Read height and width from the file's header."""
    with _naming(path):
        try:
            with _open(path) as image:
                return image.height, image.width
        except UnidentifiedImageError:
            with tifffile.TiffFile(path) as file:
                return file.pages[0].imagelength, file.pages[0].imagewidth


def find_image(folder: str | os.PathLike, name: str) -> Path | None:
    """Find the image of `name` (with or without extension) in `folder`, or return None.

    For a name without extension, EXTENSIONS are tried in order, in lower and upper case, and then NAME_pixels0, as in
    the masks of NUAA-SIRST.
    """
    folder = Path(folder)
    if Path(name).suffix.lower() in EXTENSIONS:
        if (folder / name).is_file():
            return folder / name
        name = str(Path(name).with_suffix(""))
    for stem in (name, f"{name}_pixels0"):
        for extension in EXTENSIONS:
            for path in (folder / f"{stem}{extension}", folder / f"{stem}{extension.upper()}"):
                if path.is_file():
                    return path
    return None


def stretch(grey: np.ndarray) -> np.ndarray:
    """Map the 1st to the 99.9th percentile of (H, W) float gray values to 0..255, for display."""
    low, high = np.percentile(grey, (1, 99.9))
    return np.clip((grey - low) / max(high - low, 1e-6) * 255, 0, 255)


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
    """Open an image with Pillow under the limit MAX_PIXELS instead of Pillow's own."""
    pillow_limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path) as image:
            _check_size(image.height, image.width)
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = pillow_limit


def _check_size(height: int, width: int) -> None:
    if int(height) * int(width) > MAX_PIXELS:  # Damaged TIFF headers give tuples, which int refuses.
        limit = f"{MAX_PIXELS} (istd.data.images.MAX_PIXELS)"
        raise ValueError(f"it has {width}x{height} pixels, which is more than {limit}")


def _luma_bytes(image: Image.Image) -> np.ndarray:
    return np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))


def _read_bytes(
    path: str | os.PathLike, convert: Callable[[Image.Image], np.ndarray] = _luma_bytes
) -> np.ndarray | None:
    """Read (H, W) uint8 values of a file with at most 8 bits; return None for a deeper file."""
    try:
        with _open(path) as image:
            if image.mode not in BYTE_MODES or _has_deep_color(image):
                return None
            image.load()
            return convert(image)
    except UnidentifiedImageError:
        if Path(path).suffix.lower() in (".tif", ".tiff"):
            return None  # Pillow does not know every TIFF, for example 16-bit color.
        raise


def _has_deep_color(image: Image.Image) -> bool:
    """Whether Pillow would reduce 16-bit color to 8 bits, which its raw mode shows."""
    return any("16" in str(tile[3]) for tile in image.tile)


def _read_deep(path: str | os.PathLike) -> np.ndarray:
    """Read an (H, W) or (H, W, C) array of the file's own type, with colors in the order RGB."""
    is_tiff = Path(path).suffix.lower() in (".tif", ".tiff")
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
        with tifffile.TiffFile(path) as file:
            _check_size(file.pages[0].imagelength, file.pages[0].imagewidth)
            array = file.asarray(key=0)
        if not array.size:
            raise ValueError("it holds no image")
        return array
    array = cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise BadImageError(f"{os.fspath(path)} cannot be read as an image.")
    return array[..., 2::-1] if array.ndim == 3 else array


def _luma(color: np.ndarray) -> np.ndarray:
    """Turn (H, W, 3) into (H, W) gray values of the same type."""
    grey = color.astype(np.float32) @ LUMA
    return np.rint(grey).astype(color.dtype) if np.issubdtype(color.dtype, np.integer) else grey


def _channels(array: np.ndarray, path: str | os.PathLike, merge: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return (H, W) values of an (H, W) or (H, W, C) array; `merge` turns three channels into one."""
    if array.ndim == 3 and array.shape[2] in (3, 4):
        return merge(array[..., :3])
    if array.ndim == 3 and array.shape[2] in (1, 2):
        return array[..., 0]
    if array.ndim != 2:
        raise BadImageError(f"{os.fspath(path)} has shape {array.shape}: one image of 1 to 4 channels is expected.")
    return array


def _scale(grey: np.ndarray, depth: str) -> np.ndarray:
    """Scale deeper values to (H, W) float32 in 0..255."""
    values = grey.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    if depth == "type":
        maximum = 1.0 if np.issubdtype(grey.dtype, np.floating) else 65535.0
        return np.clip(values / maximum * 255.0, 0, 255).astype(np.float32)
    low, high = values.min(), values.max()
    if high == low:
        return np.zeros(grey.shape, np.float32)
    return ((values - low) / (high - low) * 255.0).astype(np.float32)
