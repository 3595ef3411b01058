"""Dataset dicts -> network inputs, for labeled images, unlabeled images and evaluation."""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from fvcore.transforms.transform import TransformList

from s4m.data.geometry import build_geometry, valid_size
from s4m.data.images import read_image
from s4m.data.void import void_regions


def decode_segmentation(segmentation: list | dict, transforms: TransformList, source: tuple, view: tuple) -> np.ndarray:
    """Mask of a COCO segmentation after the transforms.

    Args:
        segmentation: polygons, or RLE whose counts are a list or a string.
        transforms: from the un-augmented image to the view.
        source: (h, w) of the un-augmented image.
        view: (h, w) of the view.

    Returns:
        (h, w) bool.

    Raises:
        ValueError: the segmentation does not decode to a mask of the source's size.
    """
    if isinstance(segmentation, list):
        # The rasterizer clips, so polygons need no clipping against the view (Detectron2's would need shapely).
        points = [np.array(part, np.float64).reshape(-1, 2) for part in segmentation]
        return utils.polygons_to_bitmask([transforms.apply_coords(part).reshape(-1) for part in points], *view)
    if isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
    mask = mask_util.decode(segmentation)
    if mask.shape != tuple(source):
        raise ValueError(f"an RLE decodes to {mask.shape}, but the image is {tuple(source)}")
    return transforms.apply_segmentation(mask).astype(bool)


class _GeometryMapper:
    """What all mappers do: read the image, check it against its record, apply the augmentations."""

    def __init__(self, augmentations: Sequence[T.Augmentation], image_format: str) -> None:
        self._augmentations = T.AugmentationList(augmentations)
        self._image_format = image_format

    def _view(self, d: dict) -> dict:
        image = read_image(d["file_name"], self._image_format)
        utils.check_image_size(d, image)
        source = image.shape[:2]
        data = T.AugInput(image)
        d["transforms"] = self._augmentations(data)
        d["source_size"] = source
        d["valid_size"] = valid_size(d["transforms"], data.image.shape[:2])
        d["image"] = torch.as_tensor(np.ascontiguousarray(data.image.transpose(2, 0, 1)))
        return d


class LabeledMapper(_GeometryMapper):
    """Image and ground truth of one labeled record, as Detectron2's DatasetMapper gives them, with bitmasks.

    The result has `image` (3, H, W) uint8 in INPUT.FORMAT; `instances` with gt_boxes, gt_classes and gt_masks
    (BitMasks) in the frame of `image`; `transforms`, the TransformList from the un-augmented image; `source_size`
    (h, w) of that image; `valid_size` (h, w) of the top left part of `image` that is not padding; and the record's
    file_name, image_id, height, width.
    Crowds are no instances; where they are wanted and an image has some, `crowds` holds them, with the same fields. An
    image without objects gives empty instances. Regions of a record's `void` (RLE) that are more than lines follow the
    objects as instances of the class -1, in which nothing is learned.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        recompute_boxes: bool,
        ignore_void: bool = True,
        with_crowds: bool = False,
    ) -> None:
        """
        Args:
            augmentations: geometric recipe.
            image_format: cfg.INPUT.FORMAT.
            recompute_boxes: take the boxes from the transformed masks, as crops demand, not from the record.
            ignore_void: give `void_regions` as ignored instances; False: void is background.
            with_crowds: give `crowds`, for whoever judges predictions.
        """
        super().__init__(augmentations, image_format)
        self._recompute_boxes, self._ignore_void, self._with_crowds = recompute_boxes, ignore_void, with_crowds

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {
            "augmentations": build_geometry(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "recompute_boxes": cfg.INPUT.CROP.ENABLED or cfg.INPUT.LSJ.ENABLED,
            "ignore_void": cfg.INPUT.IGNORE_VOID,
            "with_crowds": cfg.S4M.CALIBRATION.ENABLED and len(cfg.DATASETS.UNLABELED) > 0,
        }

    def __call__(self, record: dict) -> dict:
        """Map a Detectron2 dataset dict, which is not changed.

        Raises:
            FileNotFoundError: the image is absent.
            ValueError: the image cannot be read, has another size than its record, or an annotation or the void does
                not decode.
        """
        annotations, crowds = [], []
        for annotation in record.get("annotations", ()):
            (crowds if annotation.get("iscrowd", 0) else annotations).append(annotation)
        d = self._view({key: value for key, value in record.items() if key not in ("annotations", "void")})
        d["instances"] = self._instances(annotations, d)
        if self._with_crowds and crowds:
            d["crowds"] = self._instances(crowds, d)
        if self._ignore_void and "void" in record:
            d["instances"] = Instances.cat([d["instances"], self._void(record["void"], d)])
        return d

    @staticmethod
    def _void(void: dict, d: dict) -> Instances:
        """The regions of the void that are more than lines, as ignored instances."""
        try:
            regions = void_regions(void, d["transforms"], d["source_size"])
        except ValueError as error:
            raise ValueError(f"image '{d['file_name']}': {error}") from error
        masks = BitMasks(torch.from_numpy(regions))
        classes = torch.full((len(regions),), -1, dtype=torch.int64)
        boxes = masks.get_bounding_boxes()
        return Instances(tuple(d["image"].shape[1:]), gt_boxes=boxes, gt_classes=classes, gt_masks=masks)

    def _instances(self, annotations: list[dict], d: dict) -> Instances:
        view = tuple(d["image"].shape[1:])
        masks = torch.zeros((len(annotations), *view), dtype=torch.bool)
        boxes = []
        for number, annotation in enumerate(annotations):
            try:
                mask = decode_segmentation(annotation["segmentation"], d["transforms"], d["source_size"], view)
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(
                    f"image '{d['file_name']}': annotation {number} has no valid mask ({error})"
                ) from error
            masks[number] = torch.from_numpy(np.ascontiguousarray(mask))
            box = {key: annotation[key] for key in ("bbox", "bbox_mode", "category_id")}
            boxes.append(utils.transform_instance_annotations(box, d["transforms"], view))
        instances = utils.annotations_to_instances(boxes, view)
        instances.gt_masks = BitMasks(masks)
        if self._recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)


class UnlabeledMapper(_GeometryMapper):
    """Weak view of one unlabeled record: the labeled stream's geometry, no annotation.

    The result has `image` (3, H, W) uint8 in INPUT.FORMAT, `transforms`, `source_size`, `valid_size`, `file_name`,
    `image_id`, `height` and `width`, with the meaning they have in LabeledMapper.
    """

    @configurable
    def __init__(self, *, augmentations: Sequence[T.Augmentation], image_format: str) -> None:
        super().__init__(augmentations, image_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {"augmentations": build_geometry(cfg), "image_format": cfg.INPUT.FORMAT}

    def __call__(self, record: dict) -> dict:
        """Map a Detectron2 dataset dict, which is not changed; errors as LabeledMapper's on images."""
        keys = ("file_name", "image_id", "height", "width")
        return self._view({key: record[key] for key in keys if key in record})
