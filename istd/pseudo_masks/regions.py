"""First pseudo-masks: the region that grows from each annotated point, down to a level that noise and contrast give.

Frame: arrays are (H, W) in pixels, points are [x, y] 0-based pixel indices. Gray values may have any unit: an image and
a noise that are multiplied by the same factor give the same masks.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from istd.pseudo_masks.initialize import Points, check_points

POLARITIES = ("bright", "dark", "both")
REACH = 24  # pixels from the point to the border of its window, at a scale of 1
FIRST_LEVEL = 0.7
LAST_LEVEL = 0.05  # Growth goes no lower, however small the noise is.
STEP = 0.05
GAINS = np.geomspace(0.1, 2.0, 27)  # candidates of `fit_gain`
TIE = 1e-6  # Rounding leaves a pixel that lies exactly on a level above it.


class Window(NamedTuple):
    """The surroundings of a point, cut at the image's border; a dark target is inverted and so is bright here.

    Attributes:
        place: rows and columns of the image, two slices.
        height: (h, w) float64 gray values above the background, which is the window's median.
        point: row and column of the point in the window.
        peak: row and column of the largest value among the 3x3 pixels around the point.
        inner: (h, w) bool, False on the sides of the window that cut the image.
    """

    place: tuple[slice, slice]
    height: np.ndarray
    point: tuple[int, int]
    peak: tuple[int, int]
    inner: np.ndarray

    @property
    def contrast(self) -> float:
        """The gray values between the background and the peak; at most 0 if the point is on no target."""
        return float(self.height[self.peak])

    @property
    def noise(self) -> float:
        """The root mean square difference from the background, in gray values."""
        return float(np.sqrt(np.square(self.height).mean()))


def grow_mask(
    image: np.ndarray,
    points: Points,
    *,
    noise: float | None = None,
    gain: float = 1.0,
    polarity: str = "bright",
    scale: float = 1.0,
    max_area: int = 400,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask that grows from the points of an image.

    Each point has a window of 49x49 pixels, whose median is the background. The largest value among the 3x3 pixels
    around the point is the peak, and the contrast is the peak minus the background.

    1. The last level is gain * sqrt(noise / contrast), between 0.05 and 0.7. With a gain of 1, the gray value there
       lies above the background by the geometric mean of the noise and the contrast.
    2. Levels fall from 0.7 to the last level in steps of 0.05. At each, the region is the 8-connected part of
       {gray >= background + level * contrast} that holds the peak.
    3. The growth ends at the level before the region leaks: before it touches a side of the window inside the image,
       has more than `max_area` pixels, or has more than twice its area at the level before plus 8 pixels.

    The point's own pixel always joins the mask.

    Example: with a noise of 10, a target of contrast 90 grows to the level sqrt(10 / 90) = 0.33, and a faint one of
    contrast 30 only to 0.58.

    Args:
        image: (H, W), any dtype, finite.
        points: N times [x, y].
        noise: noise of the images in gray values; the median of `window_noise` over all points of a data set is better
            than None, which takes the noise of each point's own window.
        gain: factor of the last level; lower values make larger regions. `fit_gain` fits it to true masks.
        polarity: "bright", "dark" for targets below their background, or "both" for what each point shows more clearly.
        scale: size of the targets in multiples of the default; the side of the window and the areas follow.
        max_area: largest region in pixels, at a scale of 1.

    Returns:
        mask: (H, W) float32, 0 or 1.
        has_region: (N,) bool, whether the point got a region.

    Raises:
        ValueError: a point outside the image, another polarity, or a negative noise or gain.
    """
    image = np.asarray(image)
    array = check_points(points, *image.shape)
    if gain < 0 or (noise is not None and noise < 0):
        raise ValueError(f"the gain ({gain}) and the noise ({noise}) of regions must not be negative.")
    mask = np.zeros(image.shape, np.float32)
    has_region = np.zeros(len(array), bool)
    for i, (x, y) in enumerate(array):
        window = cut_window(image, int(x), int(y), polarity, scale)
        has_region[i] = window.contrast > 0
        if has_region[i]:
            last = last_level(window.contrast, window.noise if noise is None else noise, gain)
            region = grow_region(window, last, round(max_area * scale**2))
            has_region[i] = region.any()
            mask[window.place][region] = 1
    mask[array[:, 1], array[:, 0]] = 1
    return mask, has_region


def window_noise(image: np.ndarray, points: Points, scale: float = 1.0) -> np.ndarray:
    """Return the noise around each point: the root mean square difference of its window from the window's median.

    Args:
        image: (H, W), any dtype, finite.
        points: N times [x, y].
        scale: see `grow_mask`.

    Returns:
        (N,) float64 in gray values.

    Raises:
        ValueError: a point outside the image.
    """
    image = np.asarray(image)
    array = check_points(points, *image.shape)
    return np.array([cut_window(image, int(x), int(y), "bright", scale).noise for x, y in array], np.float64)


def fit_gain(
    samples: Iterable[tuple[np.ndarray, Points, np.ndarray]],
    noise: float,
    polarity: str = "bright",
    scale: float = 1.0,
) -> float:
    """Return the gain of `grow_mask`, from 0.1 to 2, whose masks have the largest mean IoU with true masks.

    Args:
        samples: image (H, W), its points, and its true mask (H, W), which is nonzero on targets.
        noise, polarity, scale: see `grow_mask`.

    Raises:
        ValueError: there is no sample with points, or see `grow_mask`.
    """
    options = {"noise": noise, "polarity": polarity, "scale": scale}
    ious = []
    for image, points, truth in samples:
        if len(points):
            masks = (grow_mask(image, points, gain=gain, **options)[0] > 0 for gain in GAINS)
            target = np.asarray(truth) > 0
            ious.append([(mask & target).sum() / (mask | target).sum() for mask in masks])
    if not ious:
        raise ValueError("the gain of regions is fitted to images with points and true masks, of which there are none.")
    return float(GAINS[np.mean(ious, axis=0).argmax()])


def cut_window(image: np.ndarray, x: int, y: int, polarity: str, scale: float = 1.0) -> Window:
    """Return the window around a pixel of an (H, W) image; ValueError unless `polarity` is one of POLARITIES."""
    reach = round(REACH * scale)
    if polarity not in POLARITIES:
        raise ValueError(f"the polarity of targets must be one of {POLARITIES}, not '{polarity}'.")
    rows = slice(max(0, y - reach), min(image.shape[0], y + reach + 1))
    columns = slice(max(0, x - reach), min(image.shape[1], x + reach + 1))
    height = image[rows, columns].astype(np.float64)
    height -= np.median(height)
    row, column = y - rows.start, x - columns.start
    top, left = max(0, row - 1), max(0, column - 1)
    near = height[top : row + 2, left : column + 2]
    if polarity == "dark" or (polarity == "both" and -near.min() > near.max()):
        height = -height
        near = -near
    peak_row, peak_column = np.unravel_index(near.argmax(), near.shape)
    inner = np.ones(height.shape, bool)
    inner[0] &= rows.start == 0
    inner[-1] &= rows.stop == image.shape[0]
    inner[:, 0] &= columns.start == 0
    inner[:, -1] &= columns.stop == image.shape[1]
    return Window((rows, columns), height, (row, column), (top + int(peak_row), left + int(peak_column)), inner)


def last_level(contrast: float, noise: float, gain: float) -> float:
    """Return gain * sqrt(noise / contrast), limited to LAST_LEVEL..FIRST_LEVEL; the contrast must be positive."""
    return min(max(gain * math.sqrt(noise / contrast), LAST_LEVEL), FIRST_LEVEL)


def grow_region(window: Window, last: float, max_area: int = 400) -> np.ndarray:
    """Return the region of a window, (h, w) bool, by steps 2 and 3 of `grow_mask`; all False if the first level leaks.

    Args:
        window: a window with positive contrast.
        last: the last level, a share of the contrast.
        max_area: largest region in pixels.
    """
    region = np.zeros(window.height.shape, bool)
    limit = max_area
    for level in [*np.arange(FIRST_LEVEL, last + TIE, -STEP), last]:
        above = window.height >= (level - TIE) * window.contrast
        _, parts = cv2.connectedComponents(above.view(np.uint8), connectivity=8)
        grown = parts == parts[window.peak]
        area = int(grown.sum())
        if area > limit or (grown & ~window.inner).any():
            break
        region = grown
        limit = min(max_area, 2 * area + 8)
    return region
