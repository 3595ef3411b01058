"""COCO-format jsons are read, checked, written and registered here."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from d2kit.coco_masks import MAX_PIXELS, is_image_size, segmentation_problem
from d2kit.files import atomic_write, first_line
from s4m.data.images import first_missing


def read_json(json_file: str | os.PathLike) -> dict:
    """Read a COCO json.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not JSON, or holds no list of images.
    """
    try:
        with open(json_file, encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"COCO json '{json_file}' does not exist") from error
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise ValueError(f"'{json_file}' is not a JSON file ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise ValueError(f"'{json_file}' is not in COCO format: it holds no list 'images'")
    return data


def write_json(path: Path, content: dict) -> Path:
    """Write a json in the shortest form, as a whole or not at all, and return its path."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, separators=(",", ":"))
    return path


def _check_images(data: dict, where: str) -> dict:
    """Return the image records by id."""
    images = {}
    for number, image in enumerate(data["images"]):
        if not isinstance(image, dict):
            raise ValueError(f"{where}: image number {number} is no dictionary")
        absent = [key for key in ("id", "file_name", "height", "width") if key not in image]
        if absent:
            raise ValueError(f"{where}: image number {number} has no '{absent[0]}'")
        if not isinstance(image["id"], (int, str)) or not isinstance(image["file_name"], str):
            raise ValueError(f"{where}: image number {number} has an id or a file name of another type")
        if not is_image_size(image["height"], image["width"]):
            size = f"{image['width']!r:.20}x{image['height']!r:.20}"
            raise ValueError(f"{where}: image {image['id']} is of {size} pixels; 1 to {MAX_PIXELS} are possible")
        if image["id"] in images:
            raise ValueError(f"{where}: image id {image['id']} is used twice")
        images[image["id"]] = image
    return images


def _check_annotation(annotation: dict, images: dict, categories: dict, where: str) -> None:
    name = f"{where}: annotation {annotation.get('id', '(no id)')}"
    if annotation.get("image_id") not in images:
        raise ValueError(f"{name} is of image {annotation.get('image_id')}, which is not among the images")
    if annotation.get("category_id") not in categories:
        raise ValueError(f"{name} has category {annotation.get('category_id')}, which is not among the categories")
    if len(annotation.get("bbox") or ()) != 4 or not math.isfinite(sum(annotation["bbox"])):
        raise ValueError(f"{name} has no bbox of 4 numbers")
    image = images[annotation["image_id"]]
    problem = segmentation_problem(annotation.get("segmentation"), image["height"], image["width"])
    if problem:
        raise ValueError(f"{name} {problem}")


def _check_annotations(data: dict, images: dict, where: str) -> None:
    categories = {category["id"]: category["name"] for category in data.get("categories", ())}
    seen = set()
    for annotation in data.get("annotations", ()):
        _check_annotation(annotation, images, categories, where)
        if annotation.get("id") in seen:
            raise ValueError(f"{where}: annotation id {annotation.get('id')} is used twice")
        seen.add(annotation.get("id"))


def validate_coco(json_file: str | os.PathLike, image_root: str | os.PathLike | None = None) -> dict:
    """Check a COCO instance json and, given the folder of the images, that each image file exists.

    Annotations may hold polygons or RLE whose `counts` are a list or a string. A json without annotations, which lists
    images only, is valid.

    Returns:
        the content of the file.

    Raises:
        FileNotFoundError: the json or an image file is absent.
        ValueError: an id is missing or used twice, or an annotation names an unknown image or category, has no polygon
            of at least 3 points, or has an RLE of another size than its image. The message names the annotation's id.
    """
    where = f"'{json_file}'"
    data = read_json(json_file)
    try:
        _check_annotations(data, _check_images(data, where), where)
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"{where} is not in COCO format ({type(error).__name__}: {first_line(error)})") from error
    if image_root is not None:
        missing = first_missing(os.path.join(image_root, image["file_name"]) for image in data["images"])
        if missing:
            raise FileNotFoundError(f"{where} lists the image '{missing}', which does not exist")
    return data


def load_coco(name: str, json_file: str, image_root: str) -> list[dict]:
    """Validate and load a COCO json as Detectron2 dataset dicts, which have no `annotations` if the json has none.

    A dict beside annotations has `void`, an RLE, if the json's image has it.
    """
    data = validate_coco(json_file, image_root)
    if data.get("annotations"):
        void = {image["id"]: {"void": image["void"]} for image in data["images"] if "void" in image}
        try:
            return [{**d, **void.get(d["image_id"], {})} for d in load_coco_json(json_file, image_root, name)]
        except (AssertionError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ValueError(f"'{json_file}' cannot be loaded ({type(error).__name__}: {first_line(error)})") from error
    return [
        {key: image[key] for key in ("height", "width")}
        | {"file_name": os.path.join(image_root, image["file_name"]), "image_id": image["id"]}
        for image in sorted(data["images"], key=lambda image: image["id"])
    ]


def register_once(name: str, load: Callable[[], list[dict]], **metadata) -> None:
    """Register a data set and its metadata; the same registration twice is fine.

    Raises:
        ValueError: the name is taken by a data set with another `json_file` or `image_root`.
    """
    known = MetadataCatalog.get(name)
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, load)
        known.set(**metadata)
    elif any(known.get(key) != metadata.get(key) for key in ("json_file", "image_root")):
        raise ValueError(f"the data set name '{name}' is already registered for other files")


def register_coco_json(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    metadata: dict | None = None,
    *,
    prepare: Callable[[], object] = lambda: None,
) -> None:
    """Register a COCO-format data set, which is validated when it is loaded; see `register_once`.

    Args:
        name: name in Detectron2's catalogs.
        json_file: instances (or image info) json.
        image_root: folder that the json's file names start from.
        metadata: further fields of the metadata, such as `thing_classes`; `evaluator_type` is "coco" by default.
        prepare: function that is called before the json is read, for data sets that are written on first use.
    """
    files = {"json_file": os.fspath(json_file), "image_root": os.fspath(image_root)}

    def load() -> list[dict]:
        prepare()
        return load_coco(name, **files)

    register_once(name, load, **files, **{"evaluator_type": "coco", **(metadata or {})})
