"""Signs that the masks of a whole json follow another convention than COCO's, which no single mask shows."""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util

from d2kit.faults import Faults

_PERCENT = (-5, 105)  # what percentages lie within, with what a pen overshoots
_FAR_SIDE = 80  # percent; masks of a whole set reach further than this along both axes
_BEYOND = 1.25  # A set whose coordinates reach this many times the side of an image is not in pixels.
_LARGE = 160  # pixels; in images with longer sides, a whole set does not lie within the first 100
_FEWEST = 10  # polygons from which large images tell percentages
_TOLERANCE = 0.02  # of a box's longer side, beside one pixel, within which two boxes are the same
_OVERSHOOT = 2  # pixels by which a polygon may leave its image
_FEWEST_BEYOND = 3  # polygons that leave their images from which y may be before x
_SHARE_BEYOND = 0.1  # of the polygons, too
_SAMPLE = 50  # run lengths that are tried in the other order


def tell_percentages(extents: np.ndarray, sides: np.ndarray, faults: Faults) -> None:
    """Add an error if the coordinates of a json are percentages of the image's sides.

    Args:
        extents: (N, 4) x0, y0, x1, y1 of the polygons.
        sides: (N, 2) width and height of their images in pixels.
        faults: gets the error.
    """
    if not len(extents) or not (extents.min() >= _PERCENT[0] and extents.max() <= _PERCENT[1]):
        return
    far = extents[:, 2:].max(0)
    beyond = (far >= _BEYOND * sides.max(0)).any()
    large = len(extents) >= _FEWEST and sides.min() >= _LARGE
    if (far >= _FAR_SIDE).all() and (beyond or large):
        told = f"the coordinates of all {len(extents)} polygons lie within 0..100 and are percentages, not pixels"
        faults.error("polygons in percentages of the image", told)


def tell_swapped(extents: np.ndarray, boxes: np.ndarray, sides: np.ndarray, faults: Faults) -> None:
    """Add an error if polygons have y before x: they leave their images, and the boxes are theirs with x before y.

    Without such boxes it is an error if many leave their images, and all would lie within them with x before y.

    Args:
        extents: (N, 4) x0, y0, x1, y1 of the polygons.
        boxes: (N, 4) x, y, width, height as the json has them; NaN where it has none.
        sides: (N, 2) width and height of their images in pixels.
        faults: gets the error.
    """
    corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    with np.errstate(invalid="ignore"):
        swapped = _same(extents[:, [1, 0, 3, 2]], corners) & ~_same(extents, corners)
        leaves = (extents[:, 2:] > sides + 1).any(1) & (corners[:, 2:] <= sides + 1).all(1)
    if 2 * swapped.sum() > len(extents) and (swapped & leaves).any():
        told = f"{int(swapped.sum())} of {len(extents)} polygons have y before x, where their boxes have x before y"
        faults.error("polygons with y before x", told)
        return
    beyond = (extents[:, 2:] > sides + _OVERSHOOT).any(1)
    within = (extents[:, [3, 2]] <= sides + _OVERSHOOT).all()
    if len(extents) and within and beyond.sum() >= max(_FEWEST_BEYOND, _SHARE_BEYOND * len(extents)):
        told = f"{int(beyond.sum())} of {len(extents)} polygons leave their images"
        faults.error("polygons with y before x", f"{told}, and all lie within them with x and y exchanged")


def tell_rows(segmentations: Sequence[dict], boxes: np.ndarray, faults: Faults) -> None:
    """Add an error if run lengths go along rows, where COCO's go along columns.

    Args:
        segmentations: proved RLE whose boxes are not those of the json.
        boxes: (N, 4) x, y, width, height as the json has them; NaN where it has none.
        faults: gets the error.
    """
    matches = 0
    sample = list(zip(segmentations, boxes, strict=True))[:_SAMPLE]
    for rle, box in sample:
        turned = {"size": rle["size"][::-1], "counts": rle["counts"]}
        if isinstance(turned["counts"], list):
            turned = mask_util.frPyObjects(turned, *turned["size"])
        y, x, height, width = mask_util.toBbox(turned)
        corners = np.array([[x, y, x + width, y + height]])
        matches += bool(_same(corners, np.array([[*box[:2], *(box[:2] + box[2:])]]))[0])
    if 2 * matches > len(sample):
        told = f"{matches} of {len(sample)} RLE have the boxes of the json if they run along rows, not columns"
        faults.error("RLE that run along rows", told)


def _same(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (N,) whether two (N, 4) boxes x0, y0, x1, y1 are the same within the tolerance."""
    longest = (second[:, 2:] - second[:, :2]).max(1)
    with np.errstate(invalid="ignore"):
        return np.abs(first - second).max(1) <= 1 + _TOLERANCE * longest
