"""Data sets under DETECTRON2_DATASETS: labeled fractions of COCO, VOC and Cityscapes, and synthetic shapes.

Each `register_*` takes the folder that holds all data sets; by default DETECTRON2_DATASETS, or `datasets`, as in
Detectron2. Names that are registered already stay as they are.
"""

import itertools
import os
from functools import partial
from pathlib import Path

import portalocker
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from s4m.data.coco import register_coco_json
from s4m.data.shapes import write_shapes
from s4m.data.splits import split_name, write_splits
from s4m.data.voc_instances import voc_metadata

PERCENTS = (0.5, 1, 2, 5, 10, 20, 30, 50)
FOLDS = 5


def _register(name: str, json_file: str, image_root: str, metadata: dict, **options) -> None:
    if name not in DatasetCatalog:
        register_coco_json(name, json_file, image_root, metadata, **options)


def _root(root: str | None) -> str:
    return os.path.expanduser(root or os.getenv("DETECTRON2_DATASETS", "datasets"))


def _register_splits(name: str, json_file: str, image_root: str, metadata: dict) -> None:
    """Register `{name}_{percent}_fold{k}` and `..._unlabeled`, which `s4m split` writes by default for a json."""
    folder = os.path.join(os.path.dirname(json_file), "splits")
    stem = Path(json_file).stem
    for percent, fold, unlabeled in itertools.product(PERCENTS, range(FOLDS), (False, True)):
        split = split_name(percent, fold, unlabeled)
        _register(f"{name}_{split}", os.path.join(folder, f"{stem}_{split}.json"), image_root, metadata)


def register_coco_2017(root: str | None = None) -> None:
    """Register `coco_2017_unlabeled` and the fractions `coco_2017_train_{percent}_fold{k}`, with `..._unlabeled`."""
    coco = os.path.join(_root(root), "coco")
    annotations = os.path.join(coco, "annotations")
    info = os.path.join(annotations, "image_info_unlabeled2017.json")
    _register("coco_2017_unlabeled", info, os.path.join(coco, "unlabeled2017"), {})
    train = os.path.join(annotations, "instances_train2017.json")
    _register_splits("coco_2017_train", train, os.path.join(coco, "train2017"), _get_builtin_metadata("coco"))


def register_voc_2012(root: str | None = None) -> None:
    """Register `voc_2012_instances_{train,val,train_aug}`, which `s4m prepare-voc` writes to `VOC2012/coco`.

    The fractions are `voc_2012_instances_{train,train_aug}_{percent}_fold{k}`, with `..._unlabeled`.
    """
    images = os.path.join(_root(root), "VOC2012", "JPEGImages")
    for split in ("train", "val", "train_aug"):
        name = f"voc_2012_instances_{split}"
        json_file = os.path.join(_root(root), "VOC2012", "coco", f"instances_{split}.json")
        metadata = voc_metadata(json_file, images)
        _register(name, json_file, images, metadata)
        if split != "val":
            _register_splits(name, json_file, images, metadata)


def register_cityscapes(root: str | None = None) -> None:
    """Register the fractions `cityscapes_fine_instance_seg_train_{percent}_fold{k}`, with `..._unlabeled`.

    `s4m prepare-cityscapes` writes them to `cityscapes/coco/splits`. Detectron2 registers the whole sets.
    """
    cityscapes = os.path.join(_root(root), "cityscapes")
    train = os.path.join(cityscapes, "coco", "instances_train.json")
    images = os.path.join(cityscapes, "leftImg8bit", "train")
    metadata = {"thing_classes": _get_builtin_metadata("cityscapes")["thing_classes"]}
    _register_splits("cityscapes_fine_instance_seg_train", train, images, metadata)


def write_shapes_sets(folder: str | os.PathLike, percent: float, seed: int) -> None:
    """Write 2,000 training and 100 validation images of synthetic shapes, and a split of the former, under `folder`.

    A network that trains for minutes does not learn to tell outlines apart, so color tells most classes apart, and the
    masks stay the difficulty. Sets that exist stay as they are. Several processes may call this at once.

    Args:
        folder: folder that gets `train/`, `val/` (both of `write_shapes`) and `splits/`.
        percent: share of the training images that keep their labels.
        seed: seed of the images and of the split.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"classes": ("circle", "square", "triangle"), "tinted": 0.9}
    with portalocker.Lock(folder / ".lock", flags=portalocker.LOCK_EX):
        train = write_shapes(folder / "train", 2000, seed=seed, **recipe)
        write_shapes(folder / "val", 100, seed=seed + 1000, **recipe)
        write_splits(train, [percent], folds=1, seed=seed, output=folder / "splits")


def register_shapes(root: str | None = None) -> None:
    """Register `shapes_train_5`, `shapes_train_5_unlabeled` and `shapes_val`, which are written when first loaded."""
    folder = Path(_root(root), "shapes")
    prepare = partial(write_shapes_sets, folder, 5, seed=1)
    for name, json_file, part in (
        ("shapes_train_5", "splits/annotations_5_fold0.json", "train"),
        ("shapes_train_5_unlabeled", "splits/annotations_5_fold0_unlabeled.json", "train"),
        ("shapes_val", "val/annotations.json", "val"),
    ):
        _register(name, str(folder / json_file), str(folder / part / "images"), {}, prepare=prepare)
