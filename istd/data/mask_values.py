"""Rules for the targets in a mask file: binary masks, soft borders, instance numbers and instance colors."""

import cv2
import numpy as np
from PIL import Image

MAX_INSTANCE_NUMBER = 32  # integer values up to this are always numbers of instances or classes
NOISE = 1 / 8  # Weaker regions than this share of the largest value are ringing of a resized mask.


def byte_values(image: Image.Image) -> np.ndarray:
    """Return (H, W) uint8 values of a loaded 8-bit image: 0/1 for a palette, else the largest of the channels.

    Raises:
        ValueError: a palette in which neither index 0 nor black is clearly the background.
    """
    if image.mode in ("P", "PA"):
        return _palette_values(image)
    return np.asarray(image) if image.mode == "L" else np.asarray(image.convert("RGB")).max(-1)


def foreground(values: np.ndarray, lossy: bool = False) -> np.ndarray:
    """Turn the values of a mask file into (H, W) uint8, 1 on targets.

    Values are instance numbers if they are small integers or constant in each 8-connected region; then all pixels above
    0 are targets. Otherwise they are soft borders, and pixels above half of the largest value are targets.

    Examples, each with the values of two regions:
        1 1 1 | 2 2 2, or 100 100 | 200 200    each region is an instance, and all pixels are targets
        90 255 90 | 80 240 80                  both have soft borders, and the pixels of 255 and 240 are targets
        90 255 90 | 100 100                    ValueError, as one is soft and the other lies below 255 / 2

    Args:
        values: (H, W) values, 0 for the background.
        lossy: the file is a JPEG, whose values are never instances; half of the largest value is the border.

    Raises:
        ValueError: values are not finite, or some regions are soft while others lie below half of the largest value, so
            that each rule could lose or enlarge a target.
    """
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    top = values.max(initial=0)
    distinct = np.unique(values[values > 0])
    if not len(distinct):
        return np.zeros(values.shape, np.uint8)
    above_half = (values > float(top) / 2).astype(np.uint8)
    if lossy:
        return above_half
    nonzero = (values > 0).astype(np.uint8)
    integral = np.array_equal(distinct, np.floor(distinct))
    if len(distinct) == 1 or (integral and (top <= MAX_INSTANCE_NUMBER or (len(distinct) == top and top < 128))):
        return nonzero
    peaks, constant = _regions(values, nonzero)
    weak = peaks <= float(top) / 2
    if not weak.any():
        return above_half
    if constant.all():
        return nonzero
    if (peaks[weak] > float(top) * NOISE).any():
        raise ValueError(
            f"as a mask it is ambiguous: regions with soft borders up to {top:g} beside one of at most "
            f"{peaks[weak].max():g}; save it as 0 and 255"
        )
    return above_half


def _regions(values: np.ndarray, nonzero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest value of each 8-connected region of `nonzero`, and whether the region is constant."""
    count, labels = cv2.connectedComponents(nonzero, connectivity=8)
    regions = labels[nonzero > 0] - 1
    region_values = values[nonzero > 0].astype(np.float64)
    peaks = np.full(count - 1, -np.inf)
    lows = np.full(count - 1, np.inf)
    np.maximum.at(peaks, regions, region_values)
    np.minimum.at(lows, regions, region_values)
    return peaks, peaks == lows


def _palette_values(image: Image.Image) -> np.ndarray:
    """Return the gray values of a gray palette; else 1 for each index that is not the background's."""
    indices = np.asarray(image.getchannel(0))
    palette = np.zeros((256, 3), np.uint8)
    file_palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette[: len(file_palette)] = file_palette
    used = np.unique(indices)
    colors = palette[used]
    if (colors == colors[:, :1]).all() and len(np.unique(colors[:, 0])) == len(used):
        return palette[indices, 0]
    if not palette[0].any() or colors.any(axis=1).all():
        return (indices != 0).astype(np.uint8)
    if 0 in used:
        raise ValueError("as a mask it is ambiguous: its palette shows index 0 in a color and another index in black")
    return palette[indices].any(axis=-1).astype(np.uint8)
