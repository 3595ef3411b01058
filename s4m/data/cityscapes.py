"""Cityscapes' instances, which Detectron2 reads, become a COCO-format json that the labeled fractions are made of."""

import os
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from detectron2.data.datasets import cityscapes

from d2kit.coco_masks import describe_rle
from d2kit.require import require_extra
from s4m.data.coco import write_json

_IMAGES = "leftImg8bit"
_TRUTH = "gtFine"
_SUFFIX = "_leftImg8bit.png"


def _images(root: Path, split: str) -> dict[str, Path]:
    """Return the images of a split by their name without the city's folder, each of which has an annotation."""
    folder = root / _IMAGES / split
    images = {path.name: path for path in sorted(folder.glob(f"*/*{_SUFFIX}"))}
    if not images:
        raise FileNotFoundError(f"'{folder}' holds no image CITY/NAME{_SUFFIX}")
    for name, path in images.items():
        truth = root / _TRUTH / split / path.parent.name / name.replace(_SUFFIX, "_gtFine_instanceIds.png")
        if not truth.is_file():
            raise FileNotFoundError(f"annotation '{truth}' does not exist")
    return images


def prepare_cityscapes(
    root: str | os.PathLike, output: str | os.PathLike | None = None, *, split: str = "train", val: str = "val"
) -> Path:
    """Write `instances_{split}.json` from `leftImg8bit/{split}` and `gtFine/{split}`, and return its path.

    Masks are the RLE of the `instanceIds` images, holes included. Groups such as "cargroup" are crowds, and images
    without an instance stay. Category ids are Cityscapes' label ids. File names start from `leftImg8bit/{split}`.

    Args:
        root: folder of Cityscapes.
        output: folder of the json; by default `coco` in `root`.
        split: split whose images are written.
        val: split that must share no image with `split`.

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
    known = (label for label in labels if label.hasInstances and not label.ignoreInEval)
    categories = [{"id": label.id, "name": label.name} for label in known]
    folders = (str(root / folder / split) for folder in (_IMAGES, _TRUTH))
    # The loader forks a pool of processes, and a fork of a process that has run torch's threads may hang.
    threads = SimpleNamespace(Pool=ThreadPool, cpu_count=os.cpu_count)
    with mock.patch.object(cityscapes, "mp", threads):
        records = cityscapes.load_cityscapes_instances(*folders, from_json=False, to_polygons=False)
    images = []
    annotations = []
    for image_id, record in enumerate(sorted(records, key=lambda record: record["file_name"]), start=1):
        name = Path(record["file_name"]).relative_to(root / _IMAGES / split).as_posix()
        images.append({"id": image_id, "file_name": name, "height": record["height"], "width": record["width"]})
        for instance in record["annotations"]:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": categories[instance["category_id"]]["id"],
                "iscrowd": int(instance["iscrowd"]),
            }
            annotations.append(annotation | describe_rle(instance["segmentation"]))
    path = (Path(output) if output is not None else root / "coco") / f"instances_{split}.json"
    return write_json(path, {"images": images, "annotations": annotations, "categories": categories})
