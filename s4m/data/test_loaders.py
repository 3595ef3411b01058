"""Loaders for evaluation: images alone, or with their annotations in the frame that the network sees."""

from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import detection_utils as utils

from s4m.data.mappers import LabeledMapper, TestMapper


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
    """Detectron2's test loader with a mapper whose errors name the file."""
    return build_detection_test_loader(cfg, dataset_name, mapper=TestMapper(cfg))


def build_annotated_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
    """Images resized as for the test, with `instances` in that frame; batches of one, shared over the processes.

    Void (class -1) and `crowds` are there, so that predictions in them need not count.
    """
    mapper = LabeledMapper(
        augmentations=utils.build_augmentation(cfg, is_train=False),
        image_format=cfg.INPUT.FORMAT,
        recompute_boxes=False,
        ignore_void=True,
        with_crowds=True,
    )
    dicts = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return build_detection_test_loader(dataset=dicts, mapper=mapper, num_workers=0)
