"""Reading infrared images and masks of any common kind, each failure one sentence that names the file."""

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
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's own conversion
MAX_PIXELS = 2**30  # OpenCV's own limit; Pillow's, a sixth of it, would refuse scans of whole scenes
BYTE_MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class BadImageError(ValueError):
    """An image file that cannot be read, or that does not fit what it belongs to."""


class SizeMismatch(BadImageError):
    """A mask or a point image is of another size than its image."""


def image_name(text: str | os.PathLike) -> str:
    """Name of an image without folder and extension; other dots stay."""
    path = Path(text)
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def read_infrared(path: str | os.PathLike, depth: str = "range") -> np.ndarray:
    """Read an image as grey values.

    8-bit files keep their values; colour and palette files become luma (ITU-R 601, rounded), transparency is ignored.
    Files with more than 8 bits (16-bit PNG and TIFF, float TIFF; first page) are scaled by `depth`: "range" maps the
    image's own minimum..maximum linearly to 0..255, which suits sensors that fill only part of their 16 bits (a
    constant image becomes 0); "type" maps 0..65535 to 0..255 (float: 0..1), which keeps images comparable.

    Returns:
        (H, W) float32, 0..255.

    Raises:
        BadImageError: no image, damaged, of more channels than 4, or of more than MAX_PIXELS pixels.
        FileNotFoundError: no such file.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth must be one of {DEPTHS}, not '{depth}'.")
    with _naming(path):
        byte_image = _read_bytes(path)
        if byte_image is not None:
            return byte_image.astype(np.float32)
        return _scale(_channels(_read_deep(path), path, _luma), depth)


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a mask: (H, W) uint8, 1 on targets, by the rules of `istd.data.mask_values`.

    0/255 and 0/1 of any depth, soft borders (above half of the file's largest value), numbers of instances, palettes
    (index 0 is the background) and colours of instances (the largest channel counts).

    Raises:
        BadImageError, FileNotFoundError: as `read_infrared`; also where it is unclear what is target.
    """
    with _naming(path):
        values = _read_bytes(path, byte_values)
        if values is None:
            values = _channels(_read_deep(path), path, lambda colour: colour.max(-1))
        return foreground(values, lossy=Path(path).suffix.lower() in (".jpg", ".jpeg"))


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width from the file's header."""
    with _naming(path):
        try:
            with _open(path) as image:
                return image.height, image.width
        except UnidentifiedImageError:
            with tifffile.TiffFile(path) as file:
                return file.pages[0].imagelength, file.pages[0].imagewidth


def find_image(folder: str | os.PathLike, name: str) -> Path | None:
    """The image of `name` (with or without extension) in `folder`, None when there is none.

    Without an extension those of EXTENSIONS are tried in order, small and capital letters, then NAME_pixels0 as in
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
    """Grey values for a picture: the 1st to the 99.9th percentile becomes 0..255; (H, W) float of any range."""
    low, high = np.percentile(grey, (1, 99.9))
    return np.clip((grey - low) / max(high - low, 1e-6) * 255, 0, 255)


@contextlib.contextmanager
def _naming(path: str | os.PathLike):
    """Turn what the libraries raise into one sentence that names the file."""
    try:
        yield
    except (FileNotFoundError, BadImageError):
        raise
    except Exception as error:  # on damaged bytes decoders raise nearly anything: zlib.error, struct.error, TypeError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(f"{os.fspath(path)} cannot be read as an image ({reason}).") from error


@contextlib.contextmanager
def _open(path: str | os.PathLike):
    """Pillow's image, bounded by MAX_PIXELS in place of Pillow's own limit."""
    kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            _check_size(image.height, image.width)
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = kept


def _check_size(height: int, width: int) -> None:
    if int(height) * int(width) > MAX_PIXELS:  # damaged TIFF headers give tuples
        raise ValueError(f"it has {width}x{height} pixels, and more than {MAX_PIXELS} are not read")


def _luma_bytes(image: Image.Image) -> np.ndarray:
    return np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))


def _read_bytes(
    path: str | os.PathLike, convert: Callable[[Image.Image], np.ndarray] = _luma_bytes
) -> np.ndarray | None:
    """(H, W) uint8 values of a file with 8 bits or fewer; None for a deeper one."""
    try:
        with _open(path) as image:
            if image.mode not in BYTE_MODES or _deep_colour(image):
                return None
            image.load()
            return convert(image)
    except UnidentifiedImageError:
        if Path(path).suffix.lower() in (".tif", ".tiff"):
            return None  # Pillow does not know every TIFF (16-bit colour, for one)
        raise


def _deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would cut 16-bit colour down to 8 bits: its raw mode then says so."""
    return any("16" in str(tile[3]) for tile in image.tile)


def _read_deep(path: str | os.PathLike) -> np.ndarray:
    """(H, W) or (H, W, C) array of the file's own type; colours in the order RGB."""
    is_tiff = Path(path).suffix.lower() in (".tif", ".tiff")
    try:
        with _open(path) as image:
            colour = _deep_colour(image) and image.mode in BYTE_MODES
            image.load()  # finds truncation, which OpenCV passes over
            if not colour:
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


def _luma(colour: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W) grey values of the same type."""
    grey = colour.astype(np.float32) @ LUMA
    return np.rint(grey).astype(colour.dtype) if np.issubdtype(colour.dtype, np.integer) else grey


def _channels(array: np.ndarray, path: str | os.PathLike, merge: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(H, W) values from (H, W) or (H, W, C); `merge` makes one of three channels."""
    if array.ndim == 3 and array.shape[2] in (3, 4):
        return merge(array[..., :3])
    if array.ndim == 3 and array.shape[2] in (1, 2):
        return array[..., 0]
    if array.ndim != 2:
        raise BadImageError(f"{os.fspath(path)} has shape {array.shape}: one image of 1 to 4 channels is expected.")
    return array


def _scale(grey: np.ndarray, depth: str) -> np.ndarray:
    """(H, W) float32, 0..255, from deeper values."""
    values = grey.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    if depth == "type":
        top = 1.0 if np.issubdtype(grey.dtype, np.floating) else 65535.0
        return np.clip(values / top * 255.0, 0, 255).astype(np.float32)
    low, high = values.min(), values.max()
    if high == low:
        return np.zeros(grey.shape, np.float32)
    return ((values - low) / (high - low) * 255.0).astype(np.float32)
