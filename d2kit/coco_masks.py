"""Masks as COCO's segmentations, and back."""

import numpy as np
import pycocotools.mask as mask_util


def decode_segmentation(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Mask (H, W) uint8 of polygons, or of an RLE whose counts are a list or a string."""
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, height, width)
    return mask_util.decode(segmentation)


def encode_mask(mask: np.ndarray) -> dict:
    """What COCO's annotation says of a mask; see `describe_rle`.

    Args:
        mask: (H, W) bool or uint8 of 0 and 1.
    """
    return describe_rle(mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)))


def describe_rle(rle: dict) -> dict:
    """What COCO's annotation says of the mask of a compressed RLE, as pycocotools gives it.

    Returns:
        `area` in pixels, `bbox` (x, y, width, height) in pixels, and the RLE as a `segmentation` that json can hold.
    """
    segmentation = {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
    return {"area": int(mask_util.area(rle)), "bbox": mask_util.toBbox(rle).tolist(), "segmentation": segmentation}
