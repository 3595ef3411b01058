"""Data sets are named by a path: a bare folder of images, a json in COCO format, or a file that describes the set."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from detectron2.config import CfgNode

from d2kit.datasets import Form, locate, resolve, resolve_config
from d2kit.description import Key, read_description
from s4m.data.coco import register_coco_json, register_once
from s4m.data.images import IMAGE_SUFFIXES
from s4m.data.voc_instances import register_voc_json

KEYS = {  # of a file that describes a data set
    "images": Key("folder", required=True),
    "json": Key("file"),  # a json in COCO format; without it the images are unlabeled
    "classes": Key("names"),  # the classes to use, in this order; without it all of the json
    "evaluation": Key(("coco", "voc")),  # "voc" for a json of prepare_voc
}


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


def _register_located_folder(name: str, folder: str) -> None:
    register_image_folder(name, locate(folder, name))


def split_paths(paths: str, name: str) -> tuple[str, str]:
    """Split JSON:IMAGES at the colon that leaves two paths which exist; drives and times of day have colons, too.

    Raises:
        FileNotFoundError: there is one colon, and a path beside it does not exist.
        ValueError: no colon, or more than one, leaves two paths that exist.
    """
    colons = [number for number, letter in enumerate(paths) if letter == ":"]
    if len(colons) == 1:
        return locate(paths[: colons[0]], name), locate(paths[colons[0] + 1 :], name)
    pairs = []
    for colon in colons:
        with contextlib.suppress(FileNotFoundError):
            pairs.append((locate(paths[:colon], name), locate(paths[colon + 1 :], name)))
    if len(pairs) == 1:
        return pairs[0]
    told = "two of its colons part" if pairs else "none of its colons parts"
    raise ValueError(
        f"data set '{name}' is not registered, and {told} a json that exists from a folder that exists; "
        "name the paths in a file, as s4m:my_data.yaml does"
    )


def _register_pair(register: Callable[..., None]) -> Callable[[str, str], None]:
    """Return the function (name, JSON:IMAGES) that registers the two paths."""
    return lambda name, paths: register(name, *split_paths(paths, name))


def _register_described(name: str, file: str) -> None:
    """Register what a data set file with the keys of KEYS describes."""
    description = read_description(locate(file, name), KEYS)
    images = description["images"]
    json_file = description.get("json")
    if json_file is None:
        register_image_folder(name, images)
    elif description.get("evaluation") == "voc":
        register_voc_json(name, json_file, images)
    else:
        register_coco_json(name, json_file, images, classes=description.get("classes", ()))


FORMS = (
    Form("folder:IMAGES", "folder:(.+)", _register_located_folder),
    Form("coco:JSON:IMAGES", "coco:(.+:.+)", _register_pair(register_coco_json)),
    Form("voc:JSON:IMAGES", "voc:(.+:.+)", _register_pair(register_voc_json)),
    Form("s4m:FILE", "s4m:(.+)", _register_described),
)


def resolve_datasets(names: Iterable[str]) -> tuple[str, ...]:
    """Register the data sets that are named by their path; see `d2kit.datasets.resolve`.

    Args:
        names: registered names, `folder:PATH` (images only), `coco:JSON:IMAGE_FOLDER`, `voc:JSON:IMAGE_FOLDER` (a json
            of `prepare_voc`, evaluated as VOC is), or `s4m:FILE` (a file with keys of KEYS). A relative path that does
            not exist is looked up under the environment variable DETECTRON2_DATASETS.
    """
    return resolve(names, FORMS)


def resolve_config_datasets(cfg: CfgNode) -> None:
    """Register the data sets that DATASETS.TRAIN, TEST and UNLABELED name by path. Errors name the key."""
    resolve_config(cfg, ("TRAIN", "TEST", "UNLABELED"), FORMS)
