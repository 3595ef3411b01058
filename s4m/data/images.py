"""Image files and their headers are read here; an error names the file that cannot be read in one sentence."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageFile

from d2kit.exif import orientation_of
from d2kit.faults import Faults
from d2kit.files import read_picture

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"))
RANGES = ("extremes", "type")  # of INPUT.RANGE
_BITS_PER_SAMPLE = 0x0102  # tag of TIFF
_TRANSPOSITIONS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = {6: 90, 8: 270}  # degrees clockwise by EXIF orientation; 5 and 7 mirror as well
_SHOWN = "images with an EXIF orientation, read as they are shown, where their json must be"
_AMBIGUOUS = (
    "images with an EXIF orientation that keeps their size, read as they are shown, so that no size tells whether "
    "their json is of that frame: draw the masks of one over it, and if they are turned or mirrored, remove the tag"
)
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}  # of whole files, by format


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
        size: (height, width) in pixels as the image is shown, which is turned by its EXIF orientation.
        orientation: EXIF orientation, 1 to 8.
        deep: whether a pixel has more than 8 bits a channel.
        problem: what is wrong with the file, or "".
        frames: number of pages of a TIFF file or of pictures of an animation, of which the first is read.
    """

    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    deep: bool = False
    problem: str = ""
    frames: int = 1


def _is_deep(image: Image.Image) -> bool:
    """Return whether the file has more than 8 bits a channel, also where Pillow would cut them."""
    if image.mode[0] in "IF" or any(";16" in str(tile[3]) for tile in image.tile):
        return True
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8
    return image.format == "PPM" and any(isinstance(t[3], tuple) and t[3][-1] > 255 for t in image.tile)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W) or (H, W, C) stored pixels as an EXIF orientation says that they are shown."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def read_stored(file_name: str) -> np.ndarray:
    """Return the pixels of a file as they are stored, (H, W) or (H, W, 3) RGB, of the file's type and not turned.

    Raises:
        ValueError: the file is no image, or one of other channels. Damaged files raise other errors as well.
    """
    with open(file_name, "rb") as file:
        is_tiff = file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    if is_tiff:
        pixels = tifffile.imread(file_name, key=0)
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] > 4:
            pixels = np.moveaxis(pixels, 0, 2)
    else:
        pixels = read_picture(file_name, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise ValueError("OpenCV cannot read it")
        if pixels.ndim == 3 and pixels.shape[2] >= 3:
            pixels = pixels[..., 2::-1]
    if pixels.ndim == 3:
        pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0]
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "biuf":
        raise ValueError(f"pixels of the shape {pixels.shape} and the type {pixels.dtype} are no image")
    return pixels


def check_range(value_range: str) -> str:
    """Return a value of INPUT.RANGE, or raise ValueError if there is no such value."""
    if value_range not in RANGES:
        raise ValueError(f"INPUT.RANGE must be {' or '.join(RANGES)}, not '{value_range}'")
    return value_range


def to_eight_bits(values: np.ndarray, value_range: str) -> np.ndarray:
    """Scale pixels of more than 8 bits to uint8.

    Args:
        values: numbers of any shape; what is not finite becomes 0.
        value_range: "extremes" maps the least and the greatest of the values to 0 and 255; "type" maps 0 and the
            greatest value of 16 bits, or 1.0 for floats, to 0 and 255. Another value raises ValueError.
    """
    finite = np.isfinite(values)
    low = 0.0
    high = 1.0 if values.dtype.kind == "f" else 65535.0
    if check_range(value_range) == "extremes" and finite.any():
        low = float(values[finite].min())
        high = float(values[finite].max())
    scaled = (np.where(finite, values, low).astype(np.float64) - low) * (255 / ((high - low) or 1))
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def read_image(file_name: str, image_format: str, value_range: str = "extremes") -> np.ndarray:
    """Read an image and turn it as its EXIF tag says. Gray, palette, RGBA, 16-bit and float images are converted.

    Args:
        file_name: path of the image.
        image_format: "BGR", "RGB" or another format of Detectron2's `read_image`.
        value_range: how more than 8 bits become 8; see `to_eight_bits`.

    Returns:
        (H, W, C) uint8 array.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image, is damaged, or has more pixels than Pillow allows.
    """
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # Another package may have set it, and a torn image would load half gray.
    try:
        return _to_pixels(_open_upright(file_name, value_range), image_format)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image '{file_name}' does not exist") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"'{file_name}' is not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"image '{file_name}' is too large: {error} The limit is INPUT.MAX_PIXELS: cut the image into tiles."
        ) from error
    except Exception as error:  # Pillow's decoders raise many types for a damaged file.
        raise ValueError(f"image '{file_name}' is truncated or damaged ({error})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def _to_pixels(image: Image.Image, image_format: str) -> np.ndarray:
    """Return (H, W, C) uint8 pixels; Detectron2 is needed for other formats than BGR and RGB."""
    if image_format in ("BGR", "RGB"):
        pixels = np.asarray(image.convert("RGB"))
        return pixels[..., ::-1] if image_format == "BGR" else pixels
    from detectron2.data.detection_utils import convert_PIL_to_numpy

    return convert_PIL_to_numpy(image, image_format)


def _open_upright(file_name: str, value_range: str) -> Image.Image:
    """Return an image of 8 bits as it is shown."""
    with open(file_name, "rb") as file:
        try:
            image = Image.open(file)
        except Image.UnidentifiedImageError:
            if Path(file_name).suffix.lower() not in (".tif", ".tiff"):
                raise
            return Image.fromarray(to_eight_bits(_read_tiff(file_name), value_range))
        deep = _is_deep(image)
        orientation = orientation_of(image)
        image.load()  # This turns a TIFF already, and only a TIFF.
        if not deep:
            method = _TRANSPOSITIONS.get(orientation_of(image))
            return image if method is None else image.transpose(method)
    return Image.fromarray(to_eight_bits(turn(read_stored(file_name), orientation), value_range))


def _read_tiff(file_name: str) -> np.ndarray:
    """Return the pixels of a TIFF that Pillow does not know, for example one of floats and three channels."""
    try:
        return read_stored(file_name)
    except Exception as error:  # tifffile raises many types for a damaged file.
        raise Image.UnidentifiedImageError(str(error)) from error


def _is_whole(file, image_format: str | None) -> bool:
    """Return whether an image file ends as its format does."""
    end = _ENDS.get(image_format, b"an end that no file has")
    file.seek(max(0, file.seek(0, os.SEEK_END) - len(end)))
    return file.read() == end


def read_header(file_name: str | os.PathLike) -> Header:
    """Read the header of an image; the whole image is read only if its file does not end as its format does."""
    file_name = os.fspath(file_name)
    try:
        with open(file_name, "rb") as file:
            image = Image.open(file)
            orientation = orientation_of(image)
            deep = _is_deep(image)
            # Pillow gives the size of a TIFF, but of no other format, as the image is shown.
            size = image.size if orientation > 4 and image.format != "TIFF" else image.size[::-1]
            whole = _is_whole(file, image.format)
            # The further pictures of an MPO, which cameras write as .jpg, are previews or other views.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if not whole:
            read_image(file_name, "RGB")
        return Header(size, orientation, deep, frames=frames)
    except Image.UnidentifiedImageError:
        return _header_by_pixels(file_name)
    except Exception as error:  # Pillow's decoders raise many types for a damaged file.
        told = str(error)
        return Header(problem=told if file_name in told else f"image '{file_name}' is truncated or damaged ({told})")


def _header_by_pixels(file_name: str) -> Header:
    """Return the header of a file that Pillow does not know."""
    if not os.path.getsize(file_name):
        return Header(problem=f"'{file_name}' is an empty file")
    try:
        size = read_image(file_name, "RGB").shape[:2]
        with tifffile.TiffFile(file_name) as file:
            return Header(size, 1, True, frames=len(file.pages))
    except ValueError as error:
        return Header(problem=str(error))


def size_problem_of(file_name: str | os.PathLike, header: Header, wanted: tuple[int | None, int | None]) -> str | None:
    """Say that an image is not of the (height, width) that its json says; None if it is, or if the json says none."""
    if None in wanted or tuple(wanted) == tuple(header.size):
        return None
    height, width = header.size
    told = f"the image '{file_name}' is {width}x{height}, but its json says {wanted[1]}x{wanted[0]}"
    if header.orientation > 4 and tuple(wanted) == (width, height):
        degrees = _TURNED.get(header.orientation)
        how = f"turns it by {degrees} degrees" if degrees else "turns and mirrors it"
        told += f": its EXIF orientation {header.orientation} {how}, and the json was made without regard to it"
    return told


def tell_orientation(file_name: str | os.PathLike, header: Header, faults: Faults) -> None:
    """Add a warning if an image of the size that its json says has an EXIF orientation."""
    if header.orientation > 1:
        keeps_size = header.orientation < 5 or header.size[0] == header.size[1]
        told = f"'{file_name}' has the orientation {header.orientation}"
        faults.warning(_AMBIGUOUS if keeps_size else _SHOWN, told)


def first_missing(file_names: Iterable[str]) -> str | None:
    """Return the first path without a file, or None. Each folder is listed once, which is quick for large sets."""
    by_folder = defaultdict(list)
    for file_name in file_names:
        by_folder[os.path.dirname(file_name)].append(file_name)
    for folder, members in by_folder.items():
        try:
            present = set(os.listdir(folder or "."))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            present = set()
        for file_name in members:
            if os.path.basename(file_name) not in present:
                return file_name
    return None
