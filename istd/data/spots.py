"""What an image shows at annotated points: a bright or a dark spot, of which size, or nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from d2kit.faults import Faults
from istd.pseudo_masks.initialize import MAX_AREA, WINDOW, target_scale

REACHES = (10, 40)  # pixels from the point to the sides of the windows whose medians are the background
CLEAR = 4.0  # A spot differs from its background by at least this many standard deviations of it.
LEAST_NOISE = 1.0  # gray values
MAD_TO_SIGMA = 1.4826
REFUSED_SHARE = 0.5  # share of the points from which a fault is one of the data set, not of single points
TOLD_SHARE = 0.25
ALL_SHARE = 0.9
NOTHING_SHARE = 0.8  # Faint and camouflaged targets show no clear spot either.
MARGIN_OF_SIZE = 1.75  # ISTD.LABELS.TARGET_SIZE over the side of a square with the area of the largest targets


@dataclass(frozen=True)
class Spot:
    """The surroundings of a point.

    Attributes:
        sign: 1 for a bright spot, -1 for a dark one, 0 where the image shows neither.
        area: pixels of the spot above half of its height, at most those of the larger window; 0 without a spot.
    """

    sign: int
    area: int


def spot_at(gray: np.ndarray, x: int, y: int) -> Spot:
    """Describe the spot at pixel (x, y) of an (H, W) image with gray values 0..255.

    The brightest and the darkest of the 3x3 pixels at the point are compared with the background, which is the median
    of the smallest window of REACHES in which one of them is clear.
    """
    near = _window(gray, x, y, 1)[0]
    for reach in REACHES:
        part = _window(gray, x, y, reach)[0]
        background = float(np.median(part))
        noise = max(LEAST_NOISE, MAD_TO_SIGMA * float(np.median(np.abs(part - background))))
        rise = float(near.max()) - background
        fall = background - float(near.min())
        if max(rise, fall) >= CLEAR * noise:
            sign = 1 if rise >= fall else -1
            return Spot(sign, _area(gray, x, y, sign, background + sign * max(rise, fall) / 2))
    return Spot(0, 0)


def spots_at(gray: np.ndarray, points: Sequence[Sequence[int]]) -> list[Spot]:
    """Return the spot at each [x, y] of an (H, W) image."""
    return [spot_at(gray, x, y) for x, y in points]


def judge_spots(spots: Sequence[tuple[str, Spot]], polarity: str, target_size: float) -> Faults:
    """Return what is wrong with the points of a training set.

    Args:
        spots: image file and spot of each point, where images with dark targets are inverted (`istd.data.polarity`).
        polarity: ISTD.INPUT.POLARITY.
        target_size: ISTD.LABELS.TARGET_SIZE, or infinity if first masks are no contours.
    """
    faults = Faults()
    clear = [(file, spot) for file, spot in spots if spot.sign]
    wrong = [file for file, spot in clear if spot.sign < 0]
    if polarity != "both" and len(wrong) >= max(1, TOLD_SHARE * len(clear)):
        seen = "dark" if polarity == "bright" else "bright"
        value = seen if len(wrong) >= ALL_SHARE * len(clear) else "both"
        sentence = (
            f"{len(wrong)} of {len(clear)} points lie on {seen} spots, in {wrong[0]} for one: set ISTD.INPUT.POLARITY "
            f"to {value}."
        )
        level = "error" if len(wrong) >= REFUSED_SHARE * len(clear) else "warning"
        faults.add(level, f"points on {seen} spots", sentence, len(wrong))
    large = [file for file, spot in clear if spot.area > target_size**2]
    if len(large) >= max(1, TOLD_SHARE * len(clear)):
        scale = target_scale(target_size)
        size = math.ceil(MARGIN_OF_SIZE * math.sqrt(np.percentile([spot.area for _, spot in clear], 90)))
        sentence = (
            f"the spots at {len(large)} of {len(clear)} points, in {large[0]} for one, are larger than first masks, "
            f"which lie in a window of {WINDOW * scale:g} pixels a side and have at most {MAX_AREA * scale**2:g} "
            f"pixels: set ISTD.LABELS.TARGET_SIZE to {size}, about the side of the largest targets."
        )
        faults.warning("points on large spots", sentence, len(large))
    nothing = [file for file, spot in spots if not spot.sign]
    if len(nothing) >= max(1, NOTHING_SHARE * len(spots)):
        sentence = (
            f"the images show no spot at {len(nothing)} of {len(spots)} points, in {nothing[0]} for one: check whether "
            "the points belong to these images, have their resolution, and have x before y."
        )
        faults.warning("points without a spot", sentence, len(nothing))
    return faults


def why_none_is_easy(images: int, spots: Sequence[tuple[str, Spot]], polarity: str, target_size: float) -> str:
    """Return the sentence for a training set of so many images without a first mask, which names the cause."""
    for fault in judge_spots(spots, polarity, target_size):
        return f"none of the {images} training images is easy enough to begin with: {fault.examples[0]}"
    return (
        f"none of the {images} training images is easy enough to begin with: lower ISTD.LABELS.EASY_SHARE or set "
        "ISTD.LABELS.POOL to all; ISTD.LABELS.TARGET_SIZE is for images that were enlarged."
    )


def _window(gray: np.ndarray, x: int, y: int, reach: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the square around (x, y), cut at the border, and x, y of its first pixel."""
    x0, y0 = max(0, x - reach), max(0, y - reach)
    return gray[y0 : y + reach + 1, x0 : x + reach + 1], (x0, y0)


def _area(gray: np.ndarray, x: int, y: int, sign: int, level: float) -> int:
    """Return the pixels beyond `level` that are connected to the 3x3 pixels at (x, y)."""
    part, (x0, y0) = _window(gray, x, y, REACHES[-1])
    beyond = (sign * part > sign * level).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(beyond, connectivity=8)
    touching = np.unique(labels[max(0, y - 1 - y0) : y + 2 - y0, max(0, x - 1 - x0) : x + 2 - x0])
    return int(sum(stats[label, cv2.CC_STAT_AREA] for label in touching if label))
