"""Mappers turn dataset dicts into network inputs, for labeled images, unlabeled images and evaluation."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from fvcore.transforms.transform import TransformList

from d2kit.coco_masks import decode_segmentation
from s4m.data.geometry import build_geometry, valid_size
from s4m.data.images import check_range, read_image
from s4m.data.void import void_regions

MASK_GIB = 2.0  # one byte for each pixel of the view and object: 1,500 objects of 1333x1024 pixels


def without_labels(record: dict) -> dict:
    """Return the fields of a dataset dict that describe its image."""
    return {key: record[key] for key in ("file_name", "image_id", "height", "width") if key in record}


def crowds_as_objects(records: Iterable[dict]) -> list[dict]:
    """Return dataset dicts whose crowd regions are objects."""
    return [
        record | {"annotations": [a | {"iscrowd": 0} if a.get("iscrowd") else a for a in record["annotations"]]}
        if "annotations" in record
        else record
        for record in records
    ]


def _transformed_mask(segmentation: list | dict, transforms: TransformList, source: tuple, view: tuple) -> np.ndarray:
    """Return the (h, w) bool mask of a COCO segmentation after the transforms from an image to its view.

    Args:
        segmentation: polygons, or RLE whose counts are a list or a string.
        transforms: from the un-augmented image to the view.
        source: (h, w) of the un-augmented image, which an RLE must have.
        view: (h, w) of the view.
    """
    if isinstance(segmentation, list):
        # The rasterizer clips polygons at the view, so shapely is not needed as it is for Detectron2's clipping.
        points = [np.array(part, np.float64).reshape(-1, 2) for part in segmentation]
        return utils.polygons_to_bitmask([transforms.apply_coords(part).reshape(-1) for part in points], *view)
    return transforms.apply_segmentation(decode_segmentation(segmentation, *source)).astype(bool)


class UnlabeledMapper:
    """Maps one unlabeled record to its weak view: `LabeledMapper`'s result without instances and crowds."""

    @configurable
    def __init__(
        self, *, augmentations: Sequence[T.Augmentation], image_format: str, value_range: str = "extremes"
    ) -> None:
        self._augmentations = T.AugmentationList(augmentations)
        self._image_format = image_format
        self._value_range = check_range(value_range)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {"augmentations": build_geometry(cfg), "image_format": cfg.INPUT.FORMAT, "value_range": cfg.INPUT.RANGE}

    def __call__(self, record: dict) -> dict:
        """Map a Detectron2 dataset dict, which is not changed. Errors of the image are those of `LabeledMapper`."""
        return self._view(without_labels(record))

    def _view(self, d: dict) -> dict:
        """Read the image, check it against its record and apply the augmentations."""
        image = read_image(d["file_name"], self._image_format, self._value_range)
        utils.check_image_size(d, image)
        view = T.AugInput(image)
        d["transforms"] = self._augmentations(view)
        d["source_size"] = image.shape[:2]
        d["valid_size"] = valid_size(d["transforms"], view.image.shape[:2])
        d["image"] = torch.as_tensor(np.ascontiguousarray(view.image.transpose(2, 0, 1)))
        return d


class LabeledMapper(UnlabeledMapper):
    """Maps one labeled record to image and ground truth, as Detectron2's DatasetMapper does with bitmasks.

    The result has the record's file_name, image_id, height and width, and

        image: (3, H, W) uint8 in INPUT.FORMAT.
        instances: gt_boxes, gt_classes and gt_masks (BitMasks) in the frame of `image`; empty without objects.
        crowds: the crowd regions with the same fields, if they are requested and the image has any.
        transforms: TransformList from the un-augmented image to `image`.
        source_size: (h, w) of the un-augmented image.
        valid_size: (h, w) of the top left part of `image` that is not padding.

    Where an object has a `confidence` and confidences weigh, `instances` has `gt_weights` (N,) float32, which are 1 for
    objects without one. Thick regions of a record's `void` (RLE) follow the objects as instances of the class -1, in
    which nothing is learned; see `void_regions`.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        value_range: str = "extremes",
        recompute_boxes: bool,
        ignore_void: bool = True,
        with_crowds: bool = False,
        confidence_weights: bool = False,
        max_mask_gib: float = MASK_GIB,
    ) -> None:
        """
        Args:
            augmentations: geometric recipe.
            image_format: cfg.INPUT.FORMAT.
            value_range: cfg.INPUT.RANGE.
            recompute_boxes: whether boxes are those of the transformed masks, as crops require, or the record's.
            ignore_void: whether void regions are ignored instances, or background.
            with_crowds: whether the result has `crowds`, which the evaluation of predictions needs.
            confidence_weights: whether an object's `confidence` is its weight.
            max_mask_gib: cfg.INPUT.MAX_MASK_GIB.
        """
        super().__init__(augmentations=augmentations, image_format=image_format, value_range=value_range)
        self._recompute_boxes = recompute_boxes
        self._ignore_void = ignore_void
        self._with_crowds = with_crowds
        self._confidence_weights = confidence_weights
        self._max_mask_gib = max_mask_gib

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {
            **super().from_config(cfg),
            "recompute_boxes": cfg.INPUT.CROP.ENABLED or cfg.INPUT.LSJ.ENABLED,
            "ignore_void": cfg.INPUT.IGNORE_VOID,
            "confidence_weights": cfg.INPUT.CONFIDENCE_WEIGHTS,
            "max_mask_gib": cfg.INPUT.MAX_MASK_GIB,
            "with_crowds": cfg.S4M.CALIBRATION.ENABLED and len(cfg.DATASETS.UNLABELED) > 0,
        }

    def __call__(self, record: dict) -> dict:
        """Map a Detectron2 dataset dict, which is not changed.

        Raises:
            FileNotFoundError: the image is absent.
            ValueError: the image cannot be read or has another size than its record, a mask does not decode, or the
                masks take more than `max_mask_gib`.
        """
        annotations = []
        crowds = []
        for annotation in record.get("annotations", ()):
            (crowds if annotation.get("iscrowd", 0) else annotations).append(annotation)
        d = self._view({key: value for key, value in record.items() if key not in ("annotations", "void")})
        d["instances"] = self._instances(annotations, d)
        if self._with_crowds and crowds:
            d["crowds"] = self._instances(crowds, d)
        if self._ignore_void and "void" in record:
            void = self._void(record["void"], d)
            if d["instances"].has("gt_weights"):
                void.gt_weights = torch.ones(len(void))
            d["instances"] = Instances.cat([d["instances"], void])
        return d

    @staticmethod
    def _void(void: dict, d: dict) -> Instances:
        try:
            regions = void_regions(void, d["transforms"], d["source_size"])
        except ValueError as error:
            raise ValueError(f"image '{d['file_name']}': {error}") from error
        masks = BitMasks(torch.from_numpy(regions))
        instances = Instances(tuple(d["image"].shape[1:]), gt_boxes=masks.get_bounding_boxes(), gt_masks=masks)
        instances.gt_classes = torch.full((len(regions),), -1, dtype=torch.int64)
        return instances

    def _instances(self, annotations: list[dict], d: dict) -> Instances:
        view = tuple(d["image"].shape[1:])
        needed = len(annotations) * math.prod(view) / 2**30
        if needed > self._max_mask_gib:
            raise ValueError(
                f"image '{d['file_name']}': the masks of {len(annotations)} objects take {needed:.3g} GiB, more than "
                f"INPUT.MAX_MASK_GIB {self._max_mask_gib:g}: cut the image into tiles."
            )
        masks = torch.zeros((len(annotations), *view), dtype=torch.bool)
        boxes = []
        for number, annotation in enumerate(annotations):
            try:
                mask = _transformed_mask(annotation["segmentation"], d["transforms"], d["source_size"], view)
            except (KeyError, ValueError, TypeError) as error:
                where = f"image '{d['file_name']}': annotation {number}"
                raise ValueError(f"{where} has no valid mask ({error})") from error
            masks[number] = torch.from_numpy(np.ascontiguousarray(mask))
            box = {key: annotation[key] for key in ("bbox", "bbox_mode", "category_id")}
            boxes.append(utils.transform_instance_annotations(box, d["transforms"], view))
        instances = utils.annotations_to_instances(boxes, view)
        instances.gt_masks = BitMasks(masks)
        if self._confidence_weights and any("confidence" in annotation for annotation in annotations):
            instances.gt_weights = torch.tensor([float(a.get("confidence", 1.0)) for a in annotations])
        if self._recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)
