"""Images that a program holds as arrays, as gray values, and files that hold plain arrays."""

import os
import re
from pathlib import Path

import cv2
import numpy as np

from d2kit.faults import Report, log_once
from istd.data.sensor import RANGES, fill_not_finite, gray_from_raw, parse_range

ARRAY_EXTENSIONS = (".npy", ".raw")
COLDEST_KELVIN = 200  # Float images whose values all lie above are temperatures, as no gray image is so bright.
CONTRAST_OF_UNIT = 0.25  # Float images within 0..1 span at least this; others are normalized counts.
CONTRAST_OF_GRAY = 64  # Fractions within 0..255 span at least this; others are temperatures, for example in Celsius.


def gray_from_array(
    image: np.ndarray, value_range: str = RANGES[0], report: Report = log_once, name: str = "the image"
) -> np.ndarray:
    """Turn an image into gray values.

    The type and the values tell what the numbers mean. Colors, in the order BGR, become luma first.
        uint8, or integers within 0..255: gray values
        bool: 0 and 255
        other integers: counts of a sensor, scaled by `value_range` as 16-bit files are, see `gray_from_raw`
        floats within 0..1: gray values divided by 255, if they span at least CONTRAST_OF_UNIT; else raw values
        other floats within 0..255: gray values, if they are whole numbers or span at least CONTRAST_OF_GRAY, unless all
            are above COLDEST_KELVIN
        other floats, such as temperatures: raw values
    If `value_range` is "LOW..HIGH", all images but those of uint8 and bool are raw values.

    Args:
        image: (H, W), (1, H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, of any real type.
        value_range: range of raw values.
        report: function that gets repairs and warnings, also on the scale that the values were taken to have.
        name: image, for messages.

    Returns:
        (H, W) float32 gray values 0..255.

    Raises:
        ValueError: the shape or the type is of no image, or the values are unfit.
    """
    array = np.asarray(image)
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"{name} has values of type {array.dtype}: integers or floats are expected.")
    values = _one_channel(array, name)
    if values.dtype == np.uint8:
        return values.astype(np.float32)
    if isinstance(parse_range(value_range), tuple):
        return gray_from_raw(values, value_range, name, report)
    if np.issubdtype(values.dtype, np.integer):
        if values.min() >= 0 and values.max() <= 255:
            return values.astype(np.float32)
        return gray_from_raw(values, value_range, name, report)
    values = fill_not_finite(values.astype(np.float32), name, report)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1 and high - low >= CONTRAST_OF_UNIT:
        sentence = f"{name}: float values {low:g} to {high:g} are taken as shares of 255."
        report("repaired", "float values within 0 to 1", sentence, 1)
        return values * np.float32(255)
    is_gray = high - low >= CONTRAST_OF_GRAY or np.array_equal(values, np.rint(values))
    if low >= 0 and 1 < high <= 255 and low < COLDEST_KELVIN and is_gray or high == low == 0:
        return values
    return gray_from_raw(values, value_range, name, report)


def _one_channel(array: np.ndarray, name: str) -> np.ndarray:
    """Return the (H, W) values of an image of any accepted shape."""
    array = without_unit_axis(array)
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"{name} has the shape {array.shape}: (H, W), (1, H, W), (H, W, 1) or (H, W, 3) is expected.")
    if array.ndim == 2:
        return array
    color = np.ascontiguousarray(array[..., :3])
    if color.dtype in (np.uint8, np.uint16):
        return cv2.cvtColor(color, cv2.COLOR_BGR2GRAY)
    return cv2.cvtColor(color.astype(np.float32), cv2.COLOR_BGR2GRAY)


def without_unit_axis(array: np.ndarray) -> np.ndarray:
    """Return (1, H, W) and (H, W, 1) as (H, W), and other arrays as they are."""
    if array.ndim == 3 and array.shape[0] == 1:
        return array[0]
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def open_array(path: str | os.PathLike) -> np.ndarray:
    """Open a .npy or .raw file without reading its values.

    A .raw file holds nothing but pixels, row by row. Its name gives width and height, as in frame_640x512.raw. A byte a
    pixel means uint8, and two bytes mean little-endian uint16, of which several images may follow each other. A name
    with "float32" means little-endian float32.

    Returns:
        a read-only array of the file's type: (H, W), (H, W, C), or (N, H, W) of N images.

    Raises:
        ValueError: the file is damaged, or its name or size does not fit.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        array = without_unit_axis(np.load(path, mmap_mode="r", allow_pickle=False))
        if array.ndim not in (2, 3, 4) or not array.size:
            raise ValueError(f"it has the shape {array.shape}, and (H, W) or (N, H, W) is expected")
        return array
    sizes = re.findall(r"(\d+)x(\d+)", path.stem)
    if not sizes:
        raise ValueError("its width and height are unknown: name it as in frame_640x512.raw")
    width, height = map(int, sizes[-1])
    size = path.stat().st_size
    pixels = width * height
    if size == pixels > 0:
        return np.memmap(path, np.uint8, "r", shape=(height, width))
    dtype = np.dtype("<f4" if "float32" in path.stem else "<u2")
    if not pixels or not size or size % (dtype.itemsize * pixels):
        raise ValueError(f"it has {size} bytes, which is no number of images of {width}x{height} pixels")
    array = np.memmap(path, dtype, "r", shape=(size // (dtype.itemsize * pixels), height, width))
    return without_unit_axis(array)
