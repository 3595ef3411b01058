"""Void pixels, which belong to no object, as regions of an image in which nothing is learned."""

import cv2
import numpy as np
from fvcore.transforms.transform import TransformList

from d2kit.coco_masks import decode_segmentation

_THICK = 9  # pixels; VOC's contours around objects are about 5 wide, and a little more where they meet


def void_regions(void: dict, transforms: TransformList, source: tuple[int, int]) -> np.ndarray:
    """Return the connected regions of an image's thick void after the transforms.

    Thick void is what a square of 9 pixels fits into (a morphological opening), so that contours drop out. Pixels
    beyond the image count as void. For example, void that is 5 pixels wide around an object and a block of 20 x 12
    pixels elsewhere give one region, the block, which the opening leaves as it is.

    Args:
        void: RLE of the void pixels, as `s4m.data.voc_instances` writes it.
        transforms: from the un-augmented image to the view.
        source: (h, w) of the un-augmented image.

    Returns:
        (K, h, w) bool in the frame of the view; K is 0 where only lines are void.

    Raises:
        ValueError: the RLE does not decode to a mask of the source's size.
    """
    try:
        mask = decode_segmentation(void, *source)
    except ValueError as error:
        raise ValueError(f"its void is no RLE of {source[1]}x{source[0]} pixels ({error})") from error
    thick = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((_THICK, _THICK), np.uint8))
    view = transforms.apply_segmentation(thick)
    count, labels = cv2.connectedComponents(np.ascontiguousarray(view), connectivity=8)
    return labels == np.arange(1, count)[:, None, None]
