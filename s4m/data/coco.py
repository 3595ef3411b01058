"""COCO-format jsons are read, checked, written and registered here."""

import contextlib
import gc
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from d2kit.coco_masks import decode_segmentation
from d2kit.faults import ERROR, Faults
from d2kit.files import atomic_write
from s4m.data.coco_ids import number_annotations
from s4m.data.coco_records import repair_coco, select_classes

_LOADED = {"iscrowd", "bbox", "keypoints", "category_id", "segmentation", "confidence"}  # keys that a dict has


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking through millions of new objects again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def read_json(json_file: str | os.PathLike) -> dict:
    """Read a COCO json; a byte order mark, which Windows writes, is passed over.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not JSON, or holds no list of images.
    """
    try:
        with open(json_file, "rb") as file:
            encoding = json.detect_encoding(file.read(4))
        # The bytes are gone before the objects come; json.load would keep them beside the text.
        data = json.loads(Path(json_file).read_text(encoding, "surrogatepass"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"COCO json '{json_file}' does not exist") from error
    except (ValueError, IsADirectoryError, RecursionError) as error:
        raise ValueError(f"'{json_file}' is not a JSON file ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise ValueError(f"'{json_file}' is not in COCO format: it holds no list 'images'")
    return data


def write_json(path: Path, content: dict) -> Path:
    """Write a json in the shortest form, as a whole or not at all, and return its path."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, separators=(",", ":"))
    return path


def read_coco(json_file: str | os.PathLike, image_root: str | os.PathLike | None = None) -> tuple[dict, Faults]:
    """Read a COCO json and repair its content by the rules of `repair_coco`.

    Returns:
        the content, and its faults; with an error among them the content is not to be used.

    Raises:
        FileNotFoundError, ValueError: as `read_json`.
    """
    faults = Faults(f"'{json_file}'")
    with _no_collection():
        data = read_json(json_file)
        repair_coco(data, faults, image_root)
    return data, faults


def complete_annotations(data: dict) -> None:
    """Fill what annotations may lack and COCO's evaluation needs, in place: `iscrowd` with 0, `area` from the mask.

    Args:
        data: repaired COCO content; an `area`, in pixels, is the box's where there is no segmentation.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    for annotation in data.get("annotations", ()):
        annotation.setdefault("iscrowd", 0)
        if "area" in annotation:
            continue
        segmentation = annotation.get("segmentation")
        if segmentation:
            annotation["area"] = int(decode_segmentation(segmentation, *sizes[annotation["image_id"]]).sum())
        else:
            annotation["area"] = math.prod(annotation["bbox"][2:])


def validate_coco(json_file: str | os.PathLike, image_root: str | os.PathLike | None = None) -> dict:
    """Check a COCO instance json and, given the folder of the images, that each image file exists.

    Annotations may hold polygons or RLE whose `counts` are a list or a string. A json without annotations, which lists
    images only, is valid.

    Returns:
        the content of the file, with what could be repaired in it; a line of the log tells each kind of repair.

    Raises:
        FileNotFoundError: the json or an image file is absent.
        ValueError: the content breaks a rule of `repair_coco`. The message names the annotation, image or category.
    """
    data, faults = read_coco(json_file, image_root)
    faults.refuse()
    faults.log()
    return data


def _loaded(segmentation: list | dict) -> list | dict:
    """Return a segmentation as Detectron2's loader gives it: RLE is compressed."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def _set_classes(name: str, data: dict) -> dict[int, int]:
    """Tell Detectron2's catalog the classes of a content, ordered by id, and return the class index of each id."""
    categories = sorted(data["categories"], key=lambda category: category["id"])
    index = {category["id"]: number for number, category in enumerate(categories)}
    names = [category["name"] for category in categories]
    metadata = MetadataCatalog.get(name)
    if list(metadata.get("thing_classes", names)) != names:
        told = f"the classes {names[:5]} of its json are not those of its name, {list(metadata.thing_classes)[:5]}"
        raise ValueError(f"data set '{name}': {told}")
    metadata.thing_classes = names
    metadata.thing_dataset_id_to_contiguous_id = index
    return index


def to_records(name: str, data: dict, image_root: str) -> list[dict]:
    """Return a repaired COCO content as the dataset dicts that Detectron2's `load_coco_json` gives, ordered by id.

    They have no `annotations` if the content has none. An annotation has `confidence` if the content's has it, and a
    dict beside annotations has `void`, an RLE, if the content's image has it. The annotations of the content become
    those of the dicts, so that a large set is in memory once.
    """
    records = {
        image["id"]: {key: image[key] for key in ("height", "width")}
        | {"file_name": os.path.join(image_root, image["file_name"]), "image_id": image["id"]}
        for image in sorted(data["images"], key=lambda image: image["id"])
    }
    if not data.get("annotations"):
        return list(records.values())
    with _no_collection():
        index = _set_classes(name, data)
        for image in data["images"]:
            records[image["id"]] |= {"annotations": []} | {key: image[key] for key in ("void",) if key in image}
        for annotation in data["annotations"]:
            records[annotation["image_id"]]["annotations"].append(annotation)
            for key in annotation.keys() - _LOADED:
                del annotation[key]
            annotation["bbox_mode"] = BoxMode.XYWH_ABS
            annotation["category_id"] = index[annotation["category_id"]]
            annotation["segmentation"] = _loaded(annotation["segmentation"])
    return list(records.values())


def load_coco(name: str, json_file: str, image_root: str) -> list[dict]:
    """Validate a COCO json and return its `to_records`."""
    return to_records(name, validate_coco(json_file, image_root), image_root)


def read_classes(json_file: str | os.PathLike) -> list[str]:
    """Return the names of a json's classes, ordered by their ids."""
    data = {"images": [], "categories": read_json(json_file).get("categories", [])}
    faults = Faults(f"'{json_file}'")
    repair_coco(data, faults)
    faults.refuse()
    return [category["name"] for category in sorted(data["categories"], key=lambda category: category["id"])]


class CocoSet:
    """Loads a registered json, as Detectron2's catalog calls it: without an argument.

    Args:
        name: name in Detectron2's catalogs.
        json_file: instances (or image info) json.
        image_root: folder that the json's file names start from.
        prepare: function that is called before the json is read.
        classes: see `select_classes`; empty for all classes of the json.
    """

    def __init__(
        self, name: str, json_file: str, image_root: str, prepare: Callable[[], object], classes: Sequence[str] = ()
    ) -> None:
        self._name = name
        self._json_file = json_file
        self._image_root = image_root
        self._prepare = prepare
        self._classes = list(classes)
        self._was_read = False

    def content(self) -> tuple[dict, Faults]:
        """Return the repaired content of the json, of the chosen classes, and its faults."""
        data, faults = read_coco(self._json_file, self._image_root)
        if self._classes and not faults.of(ERROR):
            select_classes(data, self._classes, faults)
        return data, faults

    def read(self) -> tuple[list[dict], Faults]:
        """Return the dataset dicts and the faults of the json; with an error among them the dicts have no labels."""
        self._prepare()
        self._was_read = True
        data, faults = self.content()
        if faults.of(ERROR):
            data.pop("annotations", None)
        return to_records(self._name, data, self._image_root), faults

    def __call__(self) -> list[dict]:
        """Return the dataset dicts, or raise the first error; see `validate_coco`. Faults are told the first time."""
        was_read = self._was_read
        records, faults = self.read()
        faults.refuse()
        if not was_read:
            faults.log()
        return records


def is_coco_set(name: str) -> bool:
    """Return whether a registered set loads its json by the rules of this module."""
    return name in DatasetCatalog and isinstance(DatasetCatalog[name], CocoSet)


def read_content(name: str) -> dict:
    """Return the content of the json of a registered set, repaired if its records are; errors raise.

    Records of sets that other packages registered have the ids of the json, which stay as they are here, except that
    ids of annotations are positive.
    """
    if is_coco_set(name):
        data, faults = DatasetCatalog[name].content()
        faults.refuse()
        return data
    data = read_json(MetadataCatalog.get(name).json_file)
    number_annotations(data.get("annotations", []), Faults(""))
    return data


def read_set(name: str) -> tuple[list[dict], Faults]:
    """Return the dataset dicts of a registered set and the faults of its json.

    With an error among the faults the dicts have no labels. Sets that other packages registered are loaded as they are;
    what they raise is an error.
    """
    if is_coco_set(name):
        return DatasetCatalog[name].read()
    faults = Faults(f"'{name}'")
    try:
        return DatasetCatalog.get(name), faults
    except (ValueError, OSError, KeyError, AssertionError) as error:
        faults.error("sets that cannot be loaded", error)
        return [], faults


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
    classes: Sequence[str] = (),
) -> None:
    """Register a COCO-format data set, which is validated when it is loaded; see `register_once`.

    Args:
        name: name in Detectron2's catalogs.
        json_file: instances (or image info) json.
        image_root: folder that the json's file names start from.
        metadata: further fields of the metadata, such as `thing_classes`; `evaluator_type` is "coco" by default.
        prepare: function that is called before the json is read, for data sets that are written on first use.
        classes: see `select_classes`; empty for all classes of the json.
    """
    files = {"json_file": os.fspath(json_file), "image_root": os.fspath(image_root)}
    fields = {"evaluator_type": "coco"} | (metadata or {}) | ({"thing_classes": list(classes)} if classes else {})
    register_once(name, CocoSet(name, **files, prepare=prepare, classes=classes), **files, **fields)
