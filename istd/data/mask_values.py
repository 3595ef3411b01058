"""Rules for the targets in a mask file: binary masks, soft borders, instance numbers and instance colors."""

import cv2
import numpy as np
from PIL import Image

MAX_INSTANCE_NUMBER = 32  # integer values up to this are always numbers of instances or classes
NOISE = 1 / 8  # Weaker regions than this share of the largest value are ringing of a resized mask.
RINGING = 1 / 4  # Regions of a JPEG that are weaker than this share of the largest value are its ringing.
STRAY = 1 / 4  # Weak regions with less than this share of the pixels, or of the largest target, are stray values.
MOST = 1 / 2  # A mask with a larger share of targets is inverted.


def byte_values(image: Image.Image) -> tuple[np.ndarray, bool]:
    """Return (H, W) uint8 values of a loaded 8-bit image, and whether it is in color.

    The values are 0/1 for a palette of colors, else those of `largest_channel`.

    Raises:
        ValueError: a palette in which neither index 0 nor black is clearly the background.
    """
    if image.mode in ("P", "PA"):
        return _palette_values(image), False
    array = np.asarray(image if image.mode in ("L", "LA", "RGBA") else image.convert("RGB"))
    return (array, False) if array.ndim == 2 else (largest_channel(array), has_color(array))


def has_color(array: np.ndarray) -> bool:
    """Return whether an (H, W) or (H, W, C) image has three channels of color that differ somewhere."""
    return array.ndim == 3 and array.shape[2] >= 3 and bool((array[..., :3] != array[..., :1]).any())


def largest_channel(array: np.ndarray) -> np.ndarray:
    """Return the (H, W) values of a mask of several channels.

    A value is the largest of the colors. If there is an alpha channel, it is the mask where the colors are constant;
    else pixels that it makes fully transparent are background.

    Args:
        array: (H, W, C); 2 channels are gray and alpha, 3 are RGB, 4 are RGB and alpha.
    """
    if array.shape[2] == 3:
        return array.max(-1)
    alpha = array[..., -1]
    values = array[..., :-1].max(-1)
    if alpha.min() == alpha.max():
        return values
    return alpha if values.min() == values.max() else np.where(alpha == 0, values.dtype.type(0), values)


def foreground(values: np.ndarray, lossy: bool = False, colored: bool = False) -> tuple[np.ndarray, int]:
    """Turn the values of a mask file into (H, W) uint8, 1 on targets, and count stray pixels that are no targets.

    Values are instance numbers if they are small integers or constant in each 8-connected region; then all pixels above
    0 are targets. Otherwise they are soft borders, and pixels above half of the largest value are targets.

    Stray values: where the largest value is white (255, 65535, or 1.0 of floats), regions that nowhere exceed half of
    it are no targets if together they have less than STRAY of the pixels above 0, or each less than STRAY of those of
    the largest target, or if they are dark (below NOISE) and share their values, as the noise of a JPEG does that was
    saved again.

    Examples, each with the values of two regions:
        1 1 1 | 2 2 2, or 100 100 | 200 200    each region is an instance, and all pixels are targets
        90 255 90 | 80 240 80                  both have soft borders, and the pixels of 255 and 240 are targets
        255 255 255 255 255 255 | 127          the second is a stray pixel, and the others are targets
        90 255 90 | 100 100                    ValueError, as one is soft and the other lies below 255 / 2

    Args:
        values: (H, W) values, 0 for the background.
        lossy: the file is a JPEG, whose values are never instances; half of the largest value is the border.
        colored: the values are of a mask in color, which has no stray values.

    Raises:
        ValueError: values are not finite; most pixels are targets; a JPEG has small values only; or some regions are
            soft while others lie below half of the largest value, or a JPEG has such others, so that each rule could
            lose or enlarge a target.
    """
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    mask, stray = _targets(values, lossy, colored)
    share = mask.mean() if mask.size else 0.0
    if share > MOST:
        raise ValueError(f"{int(100 * share)} % of it is target, so it seems to be inverted: targets are to be white")
    return mask, stray


def _targets(values: np.ndarray, lossy: bool, colored: bool) -> tuple[np.ndarray, int]:
    """Return the mask and the number of stray pixels, see `foreground`."""
    top = values.max(initial=0)
    nonzero = (values > 0).astype(np.uint8)
    if not top > 0:
        return nonzero, 0
    above_half = (values > float(top) / 2).astype(np.uint8)
    if lossy and top <= MAX_INSTANCE_NUMBER:
        raise ValueError(f"its largest value is {top:g}: a JPEG does not keep a mask of 0 and 1; save it as PNG")
    if lossy:
        _check_lossy(values, float(top))
        return above_half, 0
    distinct = np.unique(values[values > 0])
    integral = np.array_equal(distinct, np.floor(distinct))
    if len(distinct) == 1 or (integral and (top <= MAX_INSTANCE_NUMBER or (len(distinct) == top and top < 128))):
        return nonzero, 0
    peaks, constant, areas = _regions(values, nonzero)
    weak = peaks <= float(top) / 2
    if not weak.any():
        return above_half, 0
    if top in _white(values.dtype) and not colored and _are_stray(weak, peaks, areas, float(top)):
        return above_half, int(areas[weak].sum())
    if constant.all():
        return nonzero, 0
    if (peaks[weak] > float(top) * NOISE).any():
        raise ValueError(
            f"it is ambiguous: regions with soft borders up to {top:g} beside one of at most "
            f"{peaks[weak].max():g}; save it as 0 and 255"
        )
    return above_half, 0


def _check_lossy(values: np.ndarray, top: float) -> None:
    """Raise ValueError if a JPEG has gray regions that are neither ringing nor few, such as instance numbers."""
    nonzero = (values > top * NOISE).astype(np.uint8)
    peaks, _, areas = _regions(values, nonzero)
    weak = (peaks > top * RINGING) & (peaks <= top / 2)
    if areas[weak].sum() >= STRAY * areas.sum():
        raise ValueError(
            f"it is ambiguous: regions of at most {peaks[weak].max():g} beside others of {top:g}, and a JPEG does not "
            "keep instance numbers; save it as PNG"
        )


def _white(dtype: np.dtype) -> tuple[float, ...]:
    return (1.0, 255.0) if np.issubdtype(dtype, np.floating) else (255, 65535)


def _are_stray(weak: np.ndarray, peaks: np.ndarray, areas: np.ndarray, top: float) -> bool:
    """Return whether the weak regions of a mask with white targets are stray values."""
    if areas[weak].sum() < STRAY * areas.sum() or areas[weak].max() < STRAY * areas[~weak].max():
        return True
    shares_values = len(np.unique(peaks[weak])) < weak.sum()
    return shares_values and bool((peaks[weak] <= top * NOISE).all())


def _regions(values: np.ndarray, nonzero: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each 8-connected region of `nonzero` its largest value, whether it is constant, and its pixels."""
    count, labels = cv2.connectedComponents(nonzero, connectivity=8)
    regions = labels[nonzero > 0] - 1
    region_values = values[nonzero > 0].astype(np.float64)
    peaks = np.full(count - 1, -np.inf)
    lows = np.full(count - 1, np.inf)
    np.maximum.at(peaks, regions, region_values)
    np.minimum.at(lows, regions, region_values)
    return peaks, peaks == lows, np.bincount(regions, minlength=count - 1)


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
        raise ValueError("it is ambiguous: its palette shows index 0 in a color and another index in black")
    return palette[indices].any(axis=-1).astype(np.uint8)
