"""Raw values of infrared sensors as gray values: filling and repair of bad pixels, and scaling to 0..255.

Frame: arrays are (H, W) in pixels. Raw values are counts of a sensor, temperatures, or any other numbers.
"""

import re

import cv2
import numpy as np

from d2kit.faults import Report, log_once

RANGES = ("percentiles", "type")  # A range may also be two numbers, "LOW..HIGH".
PERCENTILES = (0.1, 99.999)  # A higher share would cut off targets: 99.9 costs 4 IoU on NUAA-SIRST.
NOT_FINITE = 0.1  # An image with a larger share of pixels that are not finite is refused.
ISOLATED = 0.1  # Neighbors of a bad pixel deviate less than this share of it; optics blur a real target more.
ALIKE = 0.25  # The least deviation in a bad region is at least this share of the largest; in a target it is less.
PASSES = 3  # The crossing of a dead row and a dead column is seen once both are repaired.
MEDIAN = 5  # The median of this window in pixels is unaffected by two bad rows side by side.
FILL_RADIUS = 3  # pixels


def parse_range(text: str) -> str | tuple[float, float]:
    """Return one of RANGES, or the low and the high raw value of a text "LOW..HIGH".

    Raises:
        ValueError: the text is neither, or LOW is not below HIGH.
    """
    if text in RANGES:
        return text
    try:
        low, high = (float(part) for part in re.split(r"\.\.|[,\s]+", text.strip(" ()[]")))
    except ValueError:
        low = high = 0.0
    if not low < high < np.inf:
        choices = f"{' or '.join(RANGES)} or 'LOW..HIGH'"
        raise ValueError(f"the range of raw values (ISTD.INPUT.RANGE) is {choices}, not '{text}'.")
    return low, high


def gray_from_raw(
    raw: np.ndarray, value_range: str = RANGES[0], name: str = "the image", report: Report = log_once
) -> np.ndarray:
    """Repair raw values and scale them to gray values.

    1. Pixels that are not finite are filled from their neighbors.
    2. So are bad pixels, clusters, rows and columns, see `bad_pixels`.
    3. `value_range` gives the raw values that become 0 and 255; those beyond are clipped. "percentiles" takes the
       PERCENTILES of the image, "type" takes 0..65535 for integers and 0..1 for floats, and "LOW..HIGH" these numbers.
       A constant image becomes 0 by its percentiles.

    Args:
        raw: (H, W), any integer or float type.
        value_range: see above.
        name: file or array for messages.
        report: function that gets repairs and warnings.

    Returns:
        (H, W) float32 gray values 0..255.

    Raises:
        ValueError: too many values are not finite, or they do not fit `value_range`.
    """
    chosen = parse_range(value_range)
    values = fill_not_finite(np.asarray(raw, np.float32), name, report)
    values = _repair(values, name, report)
    if chosen == "type":
        low, high = _range_of_type(raw.dtype, values)
    elif chosen == "percentiles":
        low, high = np.percentile(values, PERCENTILES)
        if low == high:
            low, high = values.min(), values.max()
        sentence = f"{name}: raw values {low:g} to {high:g} ({raw.dtype}) are stretched to gray values 0 to 255."
        report("repaired", "raw values", sentence, 1)
    else:
        low, high = chosen
        if values.max() <= low or values.min() >= high:
            sentence = f"{name}: its values {values.min():g} to {values.max():g} all lie beyond {value_range}."
            report("warning", "values beyond the range", sentence, 1)
    if low == high:
        return np.zeros(values.shape, np.float32)
    low, high = float(low), float(high)
    return np.clip((values.astype(np.float64) - low) / (high - low) * 255, 0, 255).astype(np.float32)


def fill_not_finite(values: np.ndarray, name: str, report: Report = log_once) -> np.ndarray:
    """Fill the pixels of an (H, W) float32 array that are NaN or infinite from their neighbors.

    Raises:
        ValueError: more than NOT_FINITE of the pixels are not finite.
    """
    finite = np.isfinite(values)
    if finite.all():
        return values
    count = int((~finite).sum())
    if count > NOT_FINITE * values.size:
        raise ValueError(f"{count} of its {values.size} values are not finite, more than {NOT_FINITE:.0%}")
    sentence = f"{name}: {count} of {values.size} pixels are not finite and are filled from their neighbors."
    report("warning", "pixels that are not finite", sentence, 1)
    return _fill(values, ~finite)


def bad_pixels(values: np.ndarray) -> np.ndarray:
    """Find hot and dead pixels, small clusters of them, rows and columns.

    A region of pixels is bad if each of them differs from the median of its window by more than the whole spread of
    those medians over the image, the pixels around the region differ by less than ISOLATED of that, and the pixels of
    the region differ alike. The last two conditions keep targets, which optics spread over their neighbors.

    Args:
        values: (H, W) float32, finite, at least MEDIAN pixels a side.

    Returns:
        (H, W) bool.
    """
    rows, columns = (np.r_[4, 3, 0:length, length - 4, length - 5] for length in values.shape)
    # Windows at the border take rows and columns further inside a second time, so that two bad ones are the minority.
    median = cv2.medianBlur(np.ascontiguousarray(values[rows][:, columns]), MEDIAN)[2:-2, 2:-2]
    low, high = np.percentile(median, (0.1, 99.9))
    deviation = np.abs(values - median)
    outlier = deviation > high - low
    if low == high or not outlier.any():
        return np.zeros(values.shape, bool)
    around = cv2.dilate(np.where(outlier, np.float32(0), deviation), np.ones((3, 3), np.uint8))
    count, labels = cv2.connectedComponents(outlier.astype(np.uint8), connectivity=8)
    regions = labels[outlier]
    weakest = np.full(count, np.inf, np.float32)
    strongest = np.zeros(count, np.float32)
    strongest_around = np.zeros(count, np.float32)
    np.minimum.at(weakest, regions, deviation[outlier])
    np.maximum.at(strongest, regions, deviation[outlier])
    np.maximum.at(strongest_around, regions, around[outlier])
    is_bad = (strongest_around < ISOLATED * weakest) & (weakest > ALIKE * strongest)
    return outlier & is_bad[labels]


def _repair(values: np.ndarray, name: str, report: Report) -> np.ndarray:
    if min(values.shape) < MEDIAN:
        return values
    count = 0
    for _ in range(PASSES):
        bad = bad_pixels(values)
        if not bad.any():
            break
        count += int(bad.sum())
        values = _fill(values, bad)
    if count:
        sentence = f"{name}: {count} dead or hot pixels are filled from their neighbors."
        report("repaired", "dead or hot pixels", sentence, 1)
    return values


def _fill(values: np.ndarray, bad: np.ndarray) -> np.ndarray:
    known = np.where(bad, np.float32(0), values)
    return cv2.inpaint(known, bad.astype(np.uint8), FILL_RADIUS, cv2.INPAINT_NS)


def _range_of_type(dtype: np.dtype, values: np.ndarray) -> tuple[float, float]:
    if not np.issubdtype(dtype, np.floating):
        return 0.0, 65535.0
    if np.median(values) > 1:
        raise ValueError(f"its float values reach {values.max():g}, and the range 'type' takes floats of 0 to 1")
    return 0.0, 1.0
