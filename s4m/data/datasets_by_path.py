"""Data sets named by a path: bare folders of images, and jsons in COCO format."""

import os
from collections.abc import Iterable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2kit.datasets import Form, locate, resolve, resolve_config
from s4m.data.coco import register_coco_json
from s4m.data.voc_instances import register_voc_json

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"))


def load_image_folder(folder: str | os.PathLike) -> list[dict]:
    """Dataset dicts (`file_name`, `image_id`: path within the folder) of all images under `folder`, sorted by path.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"image folder '{folder}' does not exist")
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not names:
        raise ValueError(f"image folder '{folder}' holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [{"file_name": str(root / name), "image_id": name} for name in names]


def register_image_folder(name: str, folder: str | os.PathLike) -> None:
    """Register a folder of images without labels. The same registration twice is fine.

    Raises:
        ValueError: the name is taken by another data set.
    """
    root = os.fspath(folder)
    known = MetadataCatalog.get(name)
    if name in DatasetCatalog:
        if known.get("image_root") == root:
            return
        raise ValueError(f"the data set name '{name}' is already registered for other files")
    DatasetCatalog.register(name, lambda: load_image_folder(root))
    known.set(image_root=root)


def _register_folder(name: str, folder: str) -> None:
    register_image_folder(name, locate(folder, name))


def _register_coco(name: str, json_file: str, image_root: str) -> None:
    register_coco_json(name, locate(json_file, name), locate(image_root, name))


def _register_voc(name: str, json_file: str, image_root: str) -> None:
    register_voc_json(name, locate(json_file, name), locate(image_root, name))


FORMS = (
    Form("folder:IMAGES", "folder:(.+)", _register_folder),
    Form("coco:JSON:IMAGES", "coco:([^:]+):([^:]+)", _register_coco),
    Form("voc:JSON:IMAGES", "voc:([^:]+):([^:]+)", _register_voc),
)


def resolve_datasets(names: Iterable[str]) -> tuple[str, ...]:
    """Register the names that name a data set by its path; see `d2kit.datasets.resolve`.

    Args:
        names: registered names, `folder:PATH` (images only), `coco:JSON:IMAGE_FOLDER`, or `voc:JSON:IMAGE_FOLDER` (a
            json of `prepare_voc`, evaluated as VOC is). A relative path that does not exist from here is looked up
            under the environment variable DETECTRON2_DATASETS.
    """
    return resolve(names, FORMS)


def resolve_config_datasets(cfg: CfgNode) -> None:
    """Register what DATASETS.TRAIN, TEST and UNLABELED name by path; cfg stays as it is. Errors name the key."""
    resolve_config(cfg, ("TRAIN", "TEST", "UNLABELED"), FORMS)
