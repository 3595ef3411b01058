"""What in the values of a mask file is target: binary masks, soft borders, instance numbers and instance colours."""

import cv2
import numpy as np
from PIL import Image

IDS = 32  # integer values up to this are numbers of instances or classes, whatever their pattern
NOISE = 1 / 8  # of the largest value: weaker regions beside soft borders are ringing of a resized mask


def byte_values(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 values of a loaded 8-bit image: 0/1 of a palette's colours, else the largest of the channels.

    Raises:
        ValueError: a palette in which neither index 0 nor black is clearly the background.
    """
    if image.mode in ("P", "PA"):
        return _palette_values(image)
    return np.asarray(image) if image.mode == "L" else np.asarray(image.convert("RGB")).max(-1)


def foreground(values: np.ndarray, lossy: bool = False) -> np.ndarray:
    """(H, W) uint8, 1 on targets, of the values of a mask file.

    Small integers are instances, and so are values of which each 8-connected region has one: all above 0 is target.
    Otherwise values are soft borders, and the target is what is above half of the largest.

    Args:
        values: (H, W), 0 the background.
        lossy: of a JPEG, whose values are never instances: half of the largest is the border.

    Raises:
        ValueError: values are not finite; or some regions are soft and others lie wholly below half of the largest
            value, so that either rule could lose a target or swell it.
    """
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    top = values.max(initial=0)
    found = np.unique(values[values > 0])
    if not len(found):
        return np.zeros(values.shape, np.uint8)
    half = (values > float(top) / 2).astype(np.uint8)
    if lossy:
        return half
    whole = (values > 0).astype(np.uint8)
    integral = np.array_equal(found, np.floor(found))
    if len(found) == 1 or (integral and (top <= IDS or (len(found) == top and top < 128))):
        return whole
    peaks, constant = _regions(values, whole)
    weak = peaks <= float(top) / 2
    if not weak.any():
        return half
    if constant.all():
        return whole
    if (peaks[weak] > float(top) * NOISE).any():
        raise ValueError(
            f"as a mask it is ambiguous: regions with soft borders up to {top:g} beside one of at most "
            f"{peaks[weak].max():g}; save it as 0 and 255"
        )
    return half


def _regions(values: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest value of each 8-connected region of `whole`, and whether it has no other."""
    count, labels = cv2.connectedComponents(whole, connectivity=8)
    inside = labels[whole > 0] - 1, values[whole > 0].astype(np.float64)
    peaks, lows = np.full(count - 1, -np.inf), np.full(count - 1, np.inf)
    np.maximum.at(peaks, *inside)
    np.minimum.at(lows, *inside)
    return peaks, peaks == lows


def _palette_values(image: Image.Image) -> np.ndarray:
    """A grey palette's own greys; else 1 where the index is not the background's."""
    indices = np.asarray(image.getchannel(0))
    palette = np.zeros((256, 3), np.uint8)
    given = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette[: len(given)] = given
    used = np.unique(indices)
    colours = palette[used]
    if (colours == colours[:, :1]).all() and len(np.unique(colours[:, 0])) == len(used):
        return palette[indices, 0]
    if not palette[0].any() or colours.any(axis=1).all():
        return (indices != 0).astype(np.uint8)
    if 0 in used:
        raise ValueError("as a mask it is ambiguous: its palette shows index 0 in a colour and another one in black")
    return palette[indices].any(axis=-1).astype(np.uint8)
