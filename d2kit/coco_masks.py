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
    """Compressed RLE and box of a mask.

    Args:
        mask: (H, W) bool or uint8 of 0 and 1.

    Returns:
        `segmentation` that json can hold, and `bbox` (x, y, width, height) in pixels.
    """
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    segmentation = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
    return {"segmentation": segmentation, "bbox": mask_util.toBbox(rle).tolist()}
