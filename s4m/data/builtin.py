"""Names of COCO 2017's unlabelled set and of its labelled fractions, under DETECTRON2_DATASETS."""

import itertools
import os

from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from s4m.data.coco import register_coco_json
from s4m.data.splits import split_name

PERCENTS = (0.5, 1, 2, 5, 10, 20, 30, 50)
FOLDS = 5


def _register(name: str, json_file: str, image_root: str, metadata: dict) -> None:
    if name not in DatasetCatalog:
        register_coco_json(name, json_file, image_root, metadata)


def register_coco_2017(root: str | None = None) -> None:
    """Register `coco_2017_unlabeled` and, for each percentage and fold that `make_splits` writes by default,
    `coco_2017_train_{percent}_fold{k}` and `coco_2017_train_{percent}_fold{k}_unlabeled`. Names that are taken stay.

    Args:
        root: folder that holds `coco/`; by default DETECTRON2_DATASETS, or `datasets`, as in Detectron2.
    """
    root = os.path.expanduser(root or os.getenv("DETECTRON2_DATASETS", "datasets"))
    annotations = os.path.join(root, "coco", "annotations")
    info = os.path.join(annotations, "image_info_unlabeled2017.json")
    _register("coco_2017_unlabeled", info, os.path.join(root, "coco", "unlabeled2017"), {})
    metadata = _get_builtin_metadata("coco")
    for percent, fold, unlabeled in itertools.product(PERCENTS, range(FOLDS), (False, True)):
        split = split_name(percent, fold, unlabeled)
        json_file = os.path.join(annotations, "splits", f"instances_train2017_{split}.json")
        _register(f"coco_2017_train_{split}", json_file, os.path.join(root, "coco", "train2017"), metadata)
