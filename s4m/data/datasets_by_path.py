"""Data sets named by a path: bare folders of images, and jsons in COCO format."""

import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from s4m.data.coco import register_coco_json
from s4m.data.voc_instances import register_voc_json

_BY_JSON = {"coco": register_coco_json, "voc": register_voc_json}
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


def _locate(path: str, entry: str) -> str:
    """The path itself if it exists, else the same under DETECTRON2_DATASETS."""
    path, under = os.path.expanduser(path), os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", ""))
    candidates = [path] if os.path.isabs(path) or not under else [path, os.path.join(under, path)]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    raise FileNotFoundError(f"data set '{entry}': {' and '.join(candidates)} does not exist")


def _register_by_path(entry: str) -> None:
    kind, _, rest = entry.partition(":")
    if kind == "folder" and rest:
        register_image_folder(entry, _locate(rest, entry))
    elif kind in _BY_JSON and rest.count(":") == 1:
        json_file, image_root = rest.split(":")
        _BY_JSON[kind](entry, _locate(json_file, entry), _locate(image_root, entry))
    else:
        raise ValueError(
            f"data set '{entry}' is not registered; name a registered one, 'folder:IMAGES', 'coco:JSON:IMAGES' or "
            "'voc:JSON:IMAGES'"
        )


def resolve_datasets(names: Sequence[str]) -> tuple[str, ...]:
    """Register the entries that name a data set by its path; the entry itself becomes the registered name.

    Args:
        names: registered names, `folder:PATH` (images only), `coco:JSON:IMAGE_FOLDER`, or `voc:JSON:IMAGE_FOLDER` (a
            json of `prepare_voc`, evaluated as VOC is). A relative path that does not exist from here is looked up
            under the environment variable DETECTRON2_DATASETS.

    Returns:
        the names, all registered now. Calling again is fine.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: an entry is neither registered nor of one of these forms.
    """
    for name in names:
        if name not in DatasetCatalog:
            _register_by_path(name)
    return tuple(names)


def resolve_config_datasets(cfg: CfgNode) -> None:
    """Register what DATASETS.TRAIN, TEST and UNLABELED name by path; cfg stays as it is. Errors name the key."""
    for key in ("TRAIN", "TEST", "UNLABELED"):
        try:
            resolve_datasets(cfg.DATASETS[key])
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"DATASETS.{key}: {error}") from error
