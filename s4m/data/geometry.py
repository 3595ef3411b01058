"""The geometric recipe that labeled and unlabeled views share."""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from fvcore.transforms.transform import CropTransform, PadTransform, Transform, TransformList

_PAD_GREY = 128.0


class NonEmptyResizeScale(T.ResizeScale):
    """Detectron2's ResizeScale that never rounds a side of a very long image to zero pixels."""

    def get_transform(self, image: np.ndarray) -> Transform:
        resize = super().get_transform(image)
        return T.ResizeTransform(resize.h, resize.w, max(resize.new_h, 1), max(resize.new_w, 1), resize.interp)


class CropAndPad(T.Augmentation):
    """Random crop of at most `size` x `size`, then padding on the right and below up to that size.

    Like Detectron2's FixedSizeCrop, but the crop stays within the image, and masks are padded with 0 (no object) where
    FixedSizeCrop pads them with 255.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        h, w = min(height, self.size), min(width, self.size)
        y0, x0 = np.random.randint(height - h + 1), np.random.randint(width - w + 1)
        return TransformList(
            [
                CropTransform(x0, y0, w, h, orig_w=width, orig_h=height),
                PadTransform(0, 0, self.size - w, self.size - h, orig_w=w, orig_h=h, pad_value=_PAD_GREY),
            ]
        )


def build_geometry(cfg: CfgNode) -> list[T.Augmentation]:
    """Augmentations of the weak view: flip, resize and crop as INPUT.* says, no change of color.

    With INPUT.LSJ.ENABLED: flip, large-scale jitter, a padded square crop (INPUT.CROP and INPUT.MIN_SIZE_TRAIN take no
    part). Otherwise Detectron2's order: crop if INPUT.CROP.ENABLED, resize of the shortest edge, flip; with
    INPUT.CROP.AFTER_RESIZE the crop is of the resized image.
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
    """(h, w) of the top left part of a view of `size` that shows the image, the rest being padding."""
    for transform in transforms.transforms:
        if isinstance(transform, PadTransform):
            return transform.orig_h, transform.orig_w
    return size
