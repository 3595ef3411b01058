"""Cityscapes' instances, read by Detectron2's loader, as a COCO-format json that the labeled fractions are made of."""

import json
import os
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from detectron2.data.datasets import cityscapes

from d2kit.coco_masks import describe_rle
from d2kit.files import atomic_write
from d2kit.require import require_extra

_IMAGES, _TRUTH = "leftImg8bit", "gtFine"
_SUFFIX = "_leftImg8bit.png"


def _images(root: Path, split: str) -> dict[str, Path]:
    """Images of a split by their name without the city's folder.

    Raises:
        FileNotFoundError: the folder, an image in it, or an annotation of one is absent.
    """
    folder = root / _IMAGES / split
    images = {path.name: path for path in sorted(folder.glob(f"*/*{_SUFFIX}"))}
    if not images:
        raise FileNotFoundError(f"'{folder}' holds no image CITY/NAME{_SUFFIX}")
    for name, path in images.items():
        truth = root / _TRUTH / split / path.parent.name / name.replace(_SUFFIX, "_gtFine_instanceIds.png")
        if not truth.is_file():
            raise FileNotFoundError(f"annotation '{truth}' does not exist")
    return images


def _annotation(item: dict, image_id: int, category_ids: list[int]) -> dict:
    return {
        "image_id": image_id,
        "category_id": category_ids[item["category_id"]],
        "iscrowd": int(item["iscrowd"]),
        **describe_rle(item["segmentation"]),
    }


def prepare_cityscapes(
    root: str | os.PathLike, output: str | os.PathLike | None = None, *, split: str = "train", val: str = "val"
) -> Path:
    """Write `instances_{split}.json` from `leftImg8bit/{split}` and `gtFine/{split}`.

    Masks are RLE of the `instanceIds` images, exact to the pixel and with holes; groups ("cargroup") are crowds; images
    without an instance stay. Category ids are Cityscapes' label ids. File names start from `leftImg8bit/{split}`.

    Args:
        root: folder of Cityscapes.
        output: folder of the json; by default `coco` in `root`.
        split: which images.
        val: split whose images must not be among them.

    Returns:
        path of the json.

    Raises:
        ImportError: cityscapesscripts is not installed.
        FileNotFoundError: a folder or an annotation is absent.
        ValueError: the two splits share an image.
    """
    require_extra("cityscapesscripts", "cityscapes")
    from cityscapesscripts.helpers.labels import labels

    root = Path(root)
    shared = sorted(_images(root, split).keys() & _images(root, val).keys())
    if shared:
        raise ValueError(f"'{split}' shares {len(shared)} image(s) with '{val}', such as '{shared[0]}'")
    kinds = [label for label in labels if label.hasInstances and not label.ignoreInEval]
    folders = (str(root / kind / split) for kind in (_IMAGES, _TRUTH))
    # Its pool of processes is forked, and a fork of a process that has run torch's threads may wait for ever.
    threads = SimpleNamespace(Pool=ThreadPool, cpu_count=os.cpu_count)
    with mock.patch.object(cityscapes, "mp", threads):
        records = cityscapes.load_cityscapes_instances(*folders, from_json=False, to_polygons=False)
    images, annotations = [], []
    for image_id, record in enumerate(sorted(records, key=lambda record: record["file_name"]), start=1):
        name = Path(record["file_name"]).relative_to(root / _IMAGES / split).as_posix()
        images.append({"id": image_id, "file_name": name, "height": record["height"], "width": record["width"]})
        annotations += [_annotation(item, image_id, [kind.id for kind in kinds]) for item in record["annotations"]]
    content = {
        "images": images,
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": kind.id, "name": kind.name} for kind in kinds],
    }
    path = (Path(output) if output is not None else root / "coco") / f"instances_{split}.json"
    with atomic_write(path, "w") as file:
        json.dump(content, file, separators=(",", ":"))
    return path
