"""Functions that convert between masks and COCO segmentations."""

import numpy as np
import pycocotools.mask as mask_util


def decode_segmentation(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Decode polygons, or an RLE whose counts are a list or a string, to a mask (H, W), uint8 with values 0 and 1."""
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, height, width)
    return mask_util.decode(segmentation)


def encode_mask(mask: np.ndarray) -> dict:
    """Return the fields of `describe_rle` for a mask (H, W), bool or uint8 with values 0 and 1."""
    return describe_rle(mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)))


def describe_rle(rle: dict) -> dict:
    """Return the fields of a COCO annotation for a compressed RLE of pycocotools.

    Returns:
        `area` in pixels, `bbox` (x, y, width, height) in pixels, and the `segmentation` as an RLE that json can hold.
    """
    segmentation = {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
    return {"area": int(mask_util.area(rle)), "bbox": mask_util.toBbox(rle).tolist(), "segmentation": segmentation}
