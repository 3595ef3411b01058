"""Void of an image: pixels that are nobody's, as regions in which nothing is learned."""

import cv2
import numpy as np
import pycocotools.mask as mask_util
from fvcore.transforms.transform import TransformList

_THICK = 9  # pixels; VOC's contours around objects are about 5 wide, and a little more where they meet


def thick_void(void: np.ndarray) -> np.ndarray:
    """Void without its lines: what a square of 9 pixels fits into (a morphological opening).

    Args:
        void: (H, W) bool in the frame of the annotation; what lies beyond the image counts as void.

    Returns:
        (H, W) bool.
    """
    return cv2.morphologyEx(void.astype(np.uint8), cv2.MORPH_OPEN, np.ones((_THICK, _THICK), np.uint8)).astype(bool)


def void_regions(void: dict, transforms: TransformList, source: tuple[int, int]) -> np.ndarray:
    """Connected regions of an image's thick void after the transforms.

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
        mask = mask_util.decode(void)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its void is no RLE ({error})") from error
    if mask.shape != tuple(source):
        raise ValueError(f"its void decodes to {mask.shape}, but the image is {tuple(source)}")
    view = transforms.apply_segmentation(thick_void(mask).astype(np.uint8))
    count, labels = cv2.connectedComponents(np.ascontiguousarray(view), connectivity=8)
    return labels == np.arange(1, count)[:, None, None]
