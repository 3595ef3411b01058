"""Data sets are named by a path: a bare folder of images, or a json in COCO format."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from detectron2.config import CfgNode

from d2kit.datasets import Form, locate, resolve, resolve_config
from s4m.data.coco import register_coco_json, register_once
from s4m.data.images import IMAGE_SUFFIXES
from s4m.data.voc_instances import register_voc_json


def load_image_folder(folder: str | os.PathLike) -> list[dict]:
    """Return dataset dicts (`file_name`; `image_id`, the path within the folder) of all images under it, by path.

    Files and folders whose names begin with a dot are hidden, such as macOS's `._a.jpg`, and are left out.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"image folder '{folder}' does not exist")
    paths = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    visible = (path for path in paths if not any(part.startswith(".") for part in path.parts))
    names = sorted(path.as_posix() for path in visible if (root / path).is_file())
    if not names:
        raise ValueError(f"image folder '{folder}' holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [{"file_name": str(root / name), "image_id": name} for name in names]


def register_image_folder(name: str, folder: str | os.PathLike) -> None:
    """Register a folder of images without labels; see `register_once`."""
    root = os.fspath(folder)
    register_once(name, lambda: load_image_folder(root), image_root=root)


def _locating(register: Callable[..., None]) -> Callable[..., None]:
    """Return the function (name, *paths) that registers the paths which `locate` finds."""
    return lambda name, *paths: register(name, *(locate(path, name) for path in paths))


FORMS = (
    Form("folder:IMAGES", "folder:(.+)", _locating(register_image_folder)),
    Form("coco:JSON:IMAGES", "coco:([^:]+):([^:]+)", _locating(register_coco_json)),
    Form("voc:JSON:IMAGES", "voc:([^:]+):([^:]+)", _locating(register_voc_json)),
)


def resolve_datasets(names: Iterable[str]) -> tuple[str, ...]:
    """Register the data sets that are named by their path; see `d2kit.datasets.resolve`.

    Args:
        names: registered names, `folder:PATH` (images only), `coco:JSON:IMAGE_FOLDER`, or `voc:JSON:IMAGE_FOLDER` (a
            json of `prepare_voc`, evaluated as VOC is). A relative path that does not exist is looked up under the
            environment variable DETECTRON2_DATASETS.
    """
    return resolve(names, FORMS)


def resolve_config_datasets(cfg: CfgNode) -> None:
    """Register the data sets that DATASETS.TRAIN, TEST and UNLABELED name by path. Errors name the key."""
    resolve_config(cfg, ("TRAIN", "TEST", "UNLABELED"), FORMS)
