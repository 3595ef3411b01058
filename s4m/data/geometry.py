"""Labeled and unlabeled views share this geometric recipe."""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from fvcore.transforms.transform import CropTransform, PadTransform, Transform, TransformList


class NonEmptyResizeScale(T.ResizeScale):
    """Detectron2's ResizeScale, except that it never rounds a side of a very long image to zero pixels."""

    def get_transform(self, image: np.ndarray) -> Transform:
        resize = super().get_transform(image)
        return T.ResizeTransform(resize.h, resize.w, max(resize.new_h, 1), max(resize.new_w, 1), resize.interp)


class CropAndPad(T.Augmentation):
    """Random crop of at most `size` x `size` pixels, then gray padding on the right and below up to that size.

    Unlike Detectron2's FixedSizeCrop, the crop stays within the image, and masks are padded with 0 (no object).
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        h, w = min(height, self.size), min(width, self.size)
        y0 = np.random.randint(height - h + 1)
        x0 = np.random.randint(width - w + 1)
        crop = CropTransform(x0, y0, w, h, orig_w=width, orig_h=height)
        pad = PadTransform(0, 0, self.size - w, self.size - h, orig_w=w, orig_h=h, pad_value=128.0)
        return TransformList([crop, pad])


def build_geometry(cfg: CfgNode) -> list[T.Augmentation]:
    """Build the augmentations of the weak view from INPUT.*; colors stay as they are.

    With INPUT.LSJ.ENABLED they are a flip, large-scale jitter and a padded square crop; INPUT.CROP and
    INPUT.MIN_SIZE_TRAIN have no effect. Otherwise Detectron2's order holds: a crop if INPUT.CROP.ENABLED (of the
    resized image with INPUT.CROP.AFTER_RESIZE), a resize of the shortest edge, a flip.
    """
    standard = build_augmentation(cfg, is_train=True)
    if cfg.INPUT.LSJ.ENABLED:
        jitter = cfg.INPUT.LSJ
        return [
            *(augmentation for augmentation in standard if isinstance(augmentation, T.RandomFlip)),
            NonEmptyResizeScale(jitter.MIN_SCALE, jitter.MAX_SCALE, jitter.SIZE, jitter.SIZE),
            CropAndPad(jitter.SIZE),
        ]
    if cfg.INPUT.CROP.ENABLED:
        crop = T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
        standard.insert(1 if cfg.INPUT.CROP.AFTER_RESIZE else 0, crop)
    return standard


def valid_size(transforms: TransformList, size: tuple[int, int]) -> tuple[int, int]:
    """Return (h, w) of the top left part of a view of `size` that shows the image; the rest is padding."""
    for transform in transforms.transforms:
        if isinstance(transform, PadTransform):
            return transform.orig_h, transform.orig_w
    return size
