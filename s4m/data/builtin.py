"""Names of COCO 2017's unlabelled set and of its labelled fractions, under DETECTRON2_DATASETS."""

import os

from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from s4m.data.coco import register_coco_json
from s4m.data.splits import split_name

PERCENTS = (0.5, 1, 2, 5, 10, 20, 30, 50)
FOLDS = 5


def register_coco_2017(root: str | None = None) -> None:
    """Register `coco_2017_unlabeled` and, for each percentage and fold that `make_splits` writes by default,
    `coco_2017_train_{percent}_fold{k}` and `coco_2017_train_{percent}_fold{k}_unlabeled`.

    Args:
        root: folder that holds `coco/`; by default DETECTRON2_DATASETS, or `datasets`, as in Detectron2.
    """
    root = os.path.expanduser(root or os.getenv("DETECTRON2_DATASETS", "datasets"))
    coco = os.path.join(root, "coco")
    annotations = os.path.join(coco, "annotations")
    register_coco_json(
        "coco_2017_unlabeled",
        os.path.join(annotations, "image_info_unlabeled2017.json"),
        os.path.join(coco, "unlabeled2017"),
    )
    metadata = _get_builtin_metadata("coco")
    for percent in PERCENTS:
        for fold in range(FOLDS):
            for unlabeled in (False, True):
                register_coco_json(
                    "coco_2017_train_" + split_name(percent, fold, unlabeled),
                    os.path.join(
                        annotations, "splits", f"instances_train2017_{split_name(percent, fold, unlabeled)}.json"
                    ),
                    os.path.join(coco, "train2017"),
                    metadata,
                )
