"""Loaders for evaluation give images alone, or with their annotations in the frame that the network sees."""

from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import detection_utils as utils

from d2kit.rng import derive_seed, seeded
from s4m.data.classes import classes_of, training_classes, with_classes
from s4m.data.geometry import build_geometry
from s4m.data.mappers import LabeledMapper, UnlabeledMapper, crowds_as_objects


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
    """Build Detectron2's test loader with a mapper that reads images as in training; its errors name the file."""
    augmentations = utils.build_augmentation(cfg, is_train=False)
    mapper = UnlabeledMapper(augmentations=augmentations, image_format=cfg.INPUT.FORMAT, value_range=cfg.INPUT.RANGE)
    return build_detection_test_loader(cfg, dataset_name, mapper=mapper)


def build_annotated_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
    """Load images with `instances` in the frame that the network sees, in batches of one shared over the processes.

    With S4M.QUALITY_VIEW "test" images are resized as for the test. With "train" they are flipped, resized and cropped
    as in training, each image always in the same way. Void (class -1) and `crowds` are included, so that predictions
    in them need not count.

    Raises:
        ValueError: S4M.QUALITY_VIEW is neither.
    """
    view = cfg.S4M.QUALITY_VIEW
    if view not in ("test", "train"):
        raise ValueError(f"S4M.QUALITY_VIEW must be test or train, not '{view}'.")
    mapper = LabeledMapper(
        augmentations=utils.build_augmentation(cfg, is_train=False) if view == "test" else build_geometry(cfg),
        image_format=cfg.INPUT.FORMAT,
        value_range=cfg.INPUT.RANGE,
        recompute_boxes=view == "train",
        ignore_void=True,
        with_crowds=True,
    )

    def repeatable(record: dict) -> dict:
        with seeded(derive_seed("view of a test image", record["image_id"])):
            return mapper(record)

    dicts = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    if cfg.INPUT.CROWDS_AS_OBJECTS:
        dicts = crowds_as_objects(dicts)
    dicts = with_classes(dicts, classes_of(dataset_name), training_classes(cfg))
    return build_detection_test_loader(dataset=dicts, mapper=repeatable, num_workers=0)
