"""Functions that convert between masks and COCO segmentations."""

import math
import re
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

MAX_PIXELS = 2**30  # of an image, as in OpenCV, which reads images that are cut into tiles
# A polygon may leave its image by so many of its sides; pycocotools takes a step for each pixel of an edge.
MAX_REACH = 10


def is_image_size(height: Any, width: Any) -> bool:
    """Whether height and width are positive integers of an image of at most MAX_PIXELS pixels."""
    return all(isinstance(side, int) and side > 0 for side in (height, width)) and height * width <= MAX_PIXELS


def segmentation_problem(segmentation: Any, height: int, width: int) -> str | None:
    """Say what is wrong with a COCO segmentation of an image of that size; None if pycocotools decodes it safely.

    Polygons with huge or undefined coordinates, and an RLE that ends inside of a number, would let it use memory that
    is not its own.
    """
    if not segmentation:
        return "has no segmentation"
    if isinstance(segmentation, list):
        # Detectron2 drops a part with fewer than 3 points, but one valid part must be left.
        if not any(map(is_polygon, segmentation)):
            return "has an empty polygon (a polygon needs at least 3 points)"
        reach = MAX_REACH * max(height, width)
        if not all(_is_within(part, reach) for part in segmentation):
            return f"has a polygon of other values than numbers within {MAX_REACH} times its image"
        return None
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        return "has a segmentation that is neither polygons nor RLE"
    return _rle_problem(segmentation["size"], segmentation["counts"], height, width)


def is_polygon(part: Any) -> bool:
    """Whether a part of a segmentation is a list of the x and y of at least 3 points."""
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0


def _is_within(part: Any, reach: float) -> bool:
    try:
        return not part or (math.isfinite(sum(part)) and min(part) >= -reach and max(part) <= reach)
    except (TypeError, OverflowError):
        return False


def _rle_problem(size: Any, counts: Any, height: int, width: int) -> str | None:
    if size not in ([height, width], (height, width)):
        return f"has an RLE of size {size!r:.60}, but its image is {[height, width]}"
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            return "has an RLE whose counts are no numbers of pixels"
        if sum(counts) != height * width:
            return f"has an RLE of {sum(counts)} pixels, but its image has {height * width}"
        return None
    text = counts.decode("latin1") if isinstance(counts, bytes) else counts
    if not isinstance(text, str) or not re.fullmatch(r"[0-o]*[0-O]", text):
        return "has an RLE whose counts are damaged"
    return None


def compress_segmentation(segmentation: list | dict, height: int, width: int) -> dict:
    """Return polygons, or an RLE whose counts are a list or a string, as a compressed RLE of pycocotools.

    Raises:
        ValueError: the segmentation is damaged, or of another size.
    """
    problem = segmentation_problem(segmentation, height, width)
    if problem or not is_image_size(height, width):
        raise ValueError(f"an object {problem or f'is in an image of {width}x{height} pixels'}")
    if isinstance(segmentation, list):
        parts = [part for part in segmentation if is_polygon(part)]
        return mask_util.merge(mask_util.frPyObjects(parts, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def decode_segmentation(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Decode polygons, or an RLE whose counts are a list or a string, to a mask (H, W), uint8 with values 0 and 1.

    Raises:
        ValueError: the segmentation is damaged, or of another size.
    """
    rle = compress_segmentation(segmentation, height, width)
    mask = mask_util.decode(rle)
    if mask.sum() != mask_util.area(rle):  # pycocotools leaves what a short RLE does not cover as it was in memory.
        raise ValueError(f"an object has an RLE that does not cover its image of {width}x{height} pixels")
    return mask


def encode_mask(mask: np.ndarray) -> dict:
    """Return the fields of `describe_rle` for a mask (H, W), bool or uint8 with values 0 and 1."""
    return describe_rle(mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)))


def encode_crop(crop: np.ndarray, offset: tuple[int, int], size: tuple[int, int]) -> dict:
    """Return the fields of `describe_rle` for a mask that is 0 outside of a crop, whatever the size of the image.

    Args:
        crop: (h, w) bool.
        offset: (x, y) of the crop's first pixel in the image.
        size: (height, width) of the image.
    """
    height, width = size
    columns = np.zeros((crop.shape[1], height), bool)
    columns[:, offset[1] : offset[1] + crop.shape[0]] = crop.T
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + int(offset[0]) * height
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    return describe_rle(mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def describe_rle(rle: dict) -> dict:
    """Return the fields of a COCO annotation for a compressed RLE of pycocotools.

    Returns:
        `area` in pixels, `bbox` (x, y, width, height) in pixels, and the `segmentation` as an RLE that json can hold.
    """
    segmentation = {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
    return {"area": int(mask_util.area(rle)), "bbox": mask_util.toBbox(rle).tolist(), "segmentation": segmentation}
