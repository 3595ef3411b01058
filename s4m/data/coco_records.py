"""The images, categories and annotations of a COCO json are checked and repaired here; masks are in `coco_shapes`."""

import math
import ntpath
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from d2kit.faults import ERROR, Faults
from d2kit.rle import count_lists, count_strings
from s4m.data.areas import repair_areas
from s4m.data.coco_ids import number_annotations, number_records, plain_id
from s4m.data.coco_shapes import repair_shapes
from s4m.data.images import read_header

_FLAGS = {None: 0, 0: 0, 1: 1, "": 0, "0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
_CROWDS_TOLD = 0.02  # of all annotations; COCO has 1.2 %
_LARGEST_AREA = 1e10  # pixels, up to which COCO's evaluation counts objects


def _whole(value: object) -> int | None:
    """Return a length in pixels that may be written as a float or as text; None if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() and number > 0 and not isinstance(value, bool) else None


def _records(data: dict, part: str, faults: Faults) -> list[dict]:
    records = data.get(part, [])
    if not isinstance(records, list):
        faults.error(f"'{part}' is no list", f"'{part}' is no list")
        return []
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            faults.error(f"{part} that are no objects", f"number {number} of '{part}' is {str(record)[:40]!r}")
    return [record for record in records if isinstance(record, dict)]


@cache
def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder or "."))
    except OSError:
        return frozenset()


def _exists(path: str) -> bool:
    return os.path.basename(path) in _listing(os.path.dirname(path))


def _name_in(root: str | None, name: str) -> str:
    """Return a file name with slashes, relative to the folder of the images where the file is there.

    A path of another machine, such as `C:\\sets\\images\\a.png`, is cut to what exists under the folder.
    """
    if root is not None and _exists(os.path.join(root, name)) and not os.path.isabs(name):
        return name
    name = name.replace("\\", "/")
    foreign = bool(ntpath.splitdrive(name)[0]) or name.startswith("/")
    if root is None or not foreign:
        return name
    inside = os.path.relpath(name, os.path.abspath(root)) if name.startswith("/") else ""
    parts = name.split("/")
    tails = ["/".join(parts[start:]) for start in range(1, len(parts))]
    candidates = [inside] * (bool(inside) and not inside.startswith("..")) + tails
    return next((candidate for candidate in candidates if _exists(os.path.join(root, candidate))), name)


def _repair_names(images: list[dict], root: str | None, faults: Faults) -> None:
    """Check the file names, in place: each is a path within `root`, and, given `root`, a file."""
    _listing.cache_clear()
    missing = []
    for image in images:
        name = image["file_name"]
        new = _name_in(root, name)
        if new != name:
            faults.repaired("file names of another system, read with slashes", f"'{name}' is '{new}'")
            image["file_name"] = new
        if os.path.isabs(new) or posixpath.normpath(new).split("/")[0] == "..":
            faults.error("file names that leave the folder of the images", f"the image '{new}' leaves its folder")
        elif root is not None and not _exists(os.path.join(root, new)):
            missing.append(os.path.join(root, new))
    counts = Counter(image["file_name"] for image in images)
    for name in (name for name, count in counts.items() if count > 1):
        told = f"'{name}' is listed {counts[name]} times"
        faults.warning("images that are listed several times, each with a part of the objects", told)
    for path in missing:
        told = f"lists the image '{path}', which does not exist"
        faults.error("images that do not exist", FileNotFoundError(told))


def _repair_size(image: dict, number: int, root: str | None, faults: Faults) -> bool:
    """Make height and width whole numbers, in place, from the image's header if need be; return whether they are."""
    for index, key in enumerate(("height", "width")):
        value = image.get(key)
        if type(value) is int and value > 0:
            continue
        whole = _whole(value)
        if whole is None and root is not None:
            header = read_header(os.path.join(root, image["file_name"]))
            whole = None if header.problem else header.size[index]
        if whole is None:
            told = f"image number {number} has no '{key}'" + ("" if value is None else f" in pixels, but {value!r}")
            faults.error(f"images without {key}", told)
            return False
        faults.repaired("sizes of images that are missing or of another type, read", f"{key} {value!r} is {whole}")
        image[key] = whole
    return True


def _repair_images(data: dict, root: str | None, faults: Faults) -> dict:
    """Return the new id of each old one."""
    images = _records(data, "images", faults)
    for number, image in enumerate(images):
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            faults.error("images without file_name", f"image number {number} has no 'file_name'")
    images = [image for image in images if isinstance(image.get("file_name"), str) and image["file_name"]]
    _repair_names(images, root, faults)
    complete = [image for number, image in enumerate(images) if _repair_size(image, number, root, faults)]
    data["images"] = complete
    _check_void(complete, faults)
    return number_records(complete, "image", faults)


def _check_void(images: list[dict], faults: Faults) -> None:
    """Add an error for each image whose RLE of void pixels is not of its size."""
    for image in images:
        if "void" not in image:
            continue
        void = image["void"] if isinstance(image["void"], dict) else {}
        counts = void.get("counts")
        count = count_strings if isinstance(counts, str) else count_lists
        pixels = int(count([counts])[0]) if isinstance(counts, (str, list)) else None
        if void.get("size") != [image["height"], image["width"]] or pixels != image["height"] * image["width"]:
            faults.error("damaged void", f"image {image.get('id')} has a damaged RLE of its void pixels")


def _repair_categories(data: dict, faults: Faults) -> dict:
    """Return the new id of each old one."""
    if "categories" not in data:
        return {}
    categories = data["categories"] = _records(data, "categories", faults)
    first: dict[str, object] = {}
    known = {}
    for category in categories:
        number = category.get("id")
        name = category.get("name")
        if plain_id(number) is None:
            faults.error("categories without id", f"the category '{name}' has no id")
        elif plain_id(number) in known:
            told = f"two categories have the id {number}: '{known[plain_id(number)]}' and '{name}'"
            faults.error("categories with one id", told)
        if name is None or not str(name).strip():
            faults.error("categories without name", f"category {number} has no name")
            continue
        category["name"] = str(name).strip()
        if category["name"] in first:
            told = f"two categories have the name '{name}': the ids {first[category['name']]} and {number}"
            faults.error("categories with one name", told)
        first.setdefault(category["name"], number)
        known.setdefault(plain_id(number), name)
    if len(known) < len(categories):
        return {key: key for key in known}
    return number_records(categories, "category", faults)


def _repair_flag(annotation: dict, faults: Faults) -> None:
    """Make `iscrowd` 0 or 1, in place; one that is missing stays so."""
    if annotation.get("ignore"):
        annotation["iscrowd"] = 1
        del annotation["ignore"]
        faults.repaired("annotations with 'ignore', read as iscrowd 1", f"annotation {annotation.get('id')}")
    value = annotation.get("iscrowd", 0)
    if type(value) is int and value in (0, 1):
        return
    key = value[0] if isinstance(value, list) and len(value) == 1 else value
    key = key.strip().lower() if isinstance(key, str) else key
    key = None if isinstance(key, float) and math.isnan(key) else key
    if isinstance(key, (list, dict)) or key not in _FLAGS:
        told = f"annotation {annotation.get('id')} has iscrowd {value!r}, which is neither 0 nor 1"
        faults.error("iscrowd that is neither 0 nor 1", told)
        return
    told = f"annotation {annotation.get('id')} has iscrowd {value!r}"
    annotation["iscrowd"] = _FLAGS[key]
    faults.repaired("iscrowd that is null or of another type, read as 0 or 1", told)


def _repair_area(annotation: dict, faults: Faults) -> None:
    """Make `area` a positive number, or leave it out so that the mask's is taken, in place."""
    value = annotation.get("area", 1)
    if type(value) in (int, float) and 0 < value <= _LARGEST_AREA:
        return
    try:
        number = float(value[0] if isinstance(value, list) and len(value) == 1 else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    told = f"annotation {annotation.get('id')} has the area {str(value)[:40]!r}"
    if 0 < number <= _LARGEST_AREA:
        annotation["area"] = number
        faults.repaired("areas of another type, read as numbers", told)
    else:
        del annotation["area"]
        faults.repaired("areas that are no positive number, taken from the masks", told)


def _repair_confidence(annotation: dict, faults: Faults) -> None:
    """Leave a `confidence` out that is no number from 0 to 1, in place."""
    value = annotation.get("confidence", 1)
    if type(value) not in (int, float) or not 0 <= value <= 1:
        del annotation["confidence"]
        told = f"annotation {annotation.get('id')} has the confidence {str(value)[:40]!r}"
        faults.repaired("confidences that are no number from 0 to 1, left out", told)


def _repair_references(annotation: dict, images: dict, categories: dict, faults: Faults) -> bool:
    """Replace the ids of image and category by the new ones, in place; return whether both are known."""
    name = f"annotation {annotation.get('id', '(no id)')}"
    image = images.get(plain_id(annotation.get("image_id")))
    category = categories.get(plain_id(annotation.get("category_id")))
    if image is None:
        told = f"{name} is of image {annotation.get('image_id')}, which is not among the images"
        faults.error("annotations of unknown images", told)
    if category is None:
        told = f"{name} has category {annotation.get('category_id')}, which is not among the categories"
        faults.error("annotations of unknown categories", told)
    annotation["image_id"] = image
    annotation["category_id"] = category
    return image is not None and category is not None


def repair_coco(data: dict, faults: Faults, image_root: str | os.PathLike | None = None) -> None:
    """Check the content of a COCO json by all rules, and repair it in place.

    Afterwards, if there is no error: ids are whole numbers, those of annotations positive; sizes are whole pixels;
    `iscrowd`, `area` and `confidence`, where they are there, are 0 or 1, a positive number of pixels and a number from
    0 to 1; a segmentation is a list of polygons of at least 3 points within or near the image, or an RLE of the image's
    size; `bbox` is the mask's where the json's was not. Objects without a mask are left out.

    Args:
        data: content with a list `images`.
        faults: gets what is found.
        image_root: folder of the images; without it their existence is not checked.
    """
    root = None if image_root is None else os.fspath(image_root)
    images = _repair_images(data, root, faults)
    categories = _repair_categories(data, faults)
    if "annotations" not in data:
        return
    annotations = _records(data, "annotations", faults)
    if annotations and "categories" not in data:
        faults.error("no categories", "holds annotations and no list 'categories'")
    known = [a for a in annotations if _repair_references(a, images, categories, faults)]
    for annotation in known:
        _repair_flag(annotation, faults)
        _repair_area(annotation, faults)
        _repair_confidence(annotation, faults)
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    kept = repair_shapes(known, sizes, faults)
    if not faults.of(ERROR):
        repair_areas(kept, sizes, faults)
    if annotations and not kept and not faults.of(ERROR):
        faults.error("no usable annotation", f"none of its {len(annotations)} annotations has a usable mask")
    number_annotations(kept, faults)
    _tell_copies(kept, faults)
    data["annotations"] = kept


def _tell_copies(annotations: list[dict], faults: Faults) -> None:
    """Add a warning if objects are there twice: the same box of the same class in the same image."""
    keys = np.empty(len(annotations), np.int64)  # A set of tuples would take as much memory as a tenth of the json.
    for number, annotation in enumerate(annotations):
        keys[number] = hash((annotation["image_id"], annotation["category_id"], *annotation["bbox"]))
    again = np.ones(len(keys), bool)
    again[np.unique(keys, return_index=True)[1]] = False
    for number in np.flatnonzero(again):
        told = f"annotation {annotations[number]['id']} has the image, the class and the box of one before"
        faults.warning("objects that are there twice", told)


def tell_crowds(annotations: Iterable[dict], faults: Faults) -> None:
    """Add a warning if many annotations are crowd regions, and an error if all are."""
    flags = [bool(annotation.get("iscrowd", 0)) for annotation in annotations]
    crowds = sum(flags)
    key = "INPUT.CROWDS_AS_OBJECTS True takes them as objects"
    if crowds and crowds == len(flags):
        told = f"no image has a labeled object: all {crowds} annotations are iscrowd 1 ({key})"
        faults.error("all annotations are iscrowd 1", told)
    elif crowds > _CROWDS_TOLD * len(flags):
        faults.warning(f"annotations that are iscrowd 1 and no objects ({key})", f"{crowds} of {len(flags)}", crowds)


def select_classes(data: dict, classes: Sequence[str], faults: Faults) -> None:
    """Leave the named classes in a repaired content, in this order and with ids from 1, in place.

    Objects of other classes are left out; a name that no category has is an error.
    """
    names = {category["id"]: category["name"] for category in data.get("categories", ())}
    for absent in (name for name in classes if name not in names.values()):
        faults.error("classes that the json lacks", f"holds no category '{absent}'")
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    new = {old: numbers[name] for old, name in names.items() if name in numbers}
    data["categories"] = [{"id": number, "name": name} for name, number in numbers.items()]
    if "annotations" in data:
        kept = [annotation for annotation in data["annotations"] if annotation["category_id"] in new]
        data["annotations"] = [annotation | {"category_id": new[annotation["category_id"]]} for annotation in kept]
