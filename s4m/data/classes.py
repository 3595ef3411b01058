"""Classes of several data sets are matched by their names."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from s4m.data.coco import read_classes


def classes_of(dataset_name: str) -> list[str]:
    """Return the class names of a registered set in the order of the classes; empty if it tells none."""
    metadata = MetadataCatalog.get(dataset_name)
    if "thing_classes" not in metadata.as_dict() and "json_file" in metadata.as_dict():
        return read_classes(metadata.json_file)
    return list(metadata.get("thing_classes", ()))


def training_classes(cfg: CfgNode) -> list[str]:
    """Return the class names that the network answers with: those of the first set of DATASETS.TRAIN, empty if none."""
    return classes_of(cfg.DATASETS.TRAIN[0]) if len(cfg.DATASETS.TRAIN) else []


def class_indices(source: Sequence[str], target: Sequence[str]) -> list[int]:
    """Return the index in `target` of each class of `source`, -1 where it is absent.

    Sets that have no name in common are taken for sets of the same classes in the same order.
    """
    if not set(source) & set(target):
        return list(range(max(len(source), len(target))))
    index = {name: number for number, name in enumerate(target)}
    return [index.get(name, -1) for name in source]


def with_classes(records: Sequence[dict], source: Sequence[str], target: Sequence[str]) -> list[dict]:
    """Return dataset dicts of the classes `source` with class indices of `target`; objects of other classes are absent.

    Args:
        records: Detectron2 dataset dicts, which are not changed.
        source: class names of the dicts.
        target: class names of the result.
    """
    indices = class_indices(source, target)
    if indices == list(range(len(indices))):
        return list(records)
    return [
        record
        | {
            "annotations": [
                annotation | {"category_id": indices[annotation["category_id"]]}
                for annotation in record["annotations"]
                if indices[annotation["category_id"]] >= 0
            ]
        }
        if "annotations" in record
        else record
        for record in records
    ]
