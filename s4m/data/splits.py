"""A COCO json is split into nested labeled fractions and the matching unlabeled sets."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2kit.rng import derive_seed
from s4m.data.coco import read_coco, validate_coco, write_json
from s4m.data.duplicates import find_copies


def split_name(percent: float, fold: int, unlabeled: bool = False) -> str:
    """Return what a split adds to its data set's name: `{percent}_fold{k}`, and `_unlabeled` for unlabeled images."""
    return f"{percent:g}_fold{fold}" + ("_unlabeled" if unlabeled else "")


@dataclasses.dataclass(frozen=True)
class Split:
    """One labeled fraction and its unlabeled images, as COCO contents."""

    percent: float
    fold: int
    labeled: dict
    unlabeled: dict


def _source(image: dict) -> int:
    """Return the id of the photograph that an image of a json shows; tiles have it as `source_id`."""
    return image.get("source_id", image["id"])


def _order(data: dict, seed: int, fold: int) -> list[int]:
    """Return the photographs' ids in the random order of a fold.

    Each fraction is a beginning of this order, so fractions are nested: of the order 7, 2, 9, 4 the fraction of 25 % is
    {7}, and that of 50 % is {7, 2}.
    """
    ids = sorted({_source(image) for image in data["images"]})
    order = np.random.default_rng(derive_seed(seed, "split", fold)).permutation(len(ids))
    return [ids[i] for i in order]


def _check_classes(data: dict, fraction: list[dict], description: str) -> None:
    """Raise if a class has objects in the whole set but none among the fraction's annotations."""
    whole = {a["category_id"] for a in data["annotations"] if not a.get("iscrowd", 0)}
    absent = sorted(whole - {a["category_id"] for a in fraction if not a.get("iscrowd", 0)})
    if absent:
        names = {category["id"]: category["name"] for category in data["categories"]}
        listed = ", ".join(f"'{names[i]}'" for i in absent[:5]) + (f" and {len(absent) - 5} more" * (len(absent) > 5))
        raise ValueError(
            f"{description} leaves no image of the class {listed}; "
            "take more, fewer --folds, another --seed, or go on with --allow-missing-classes"
        )


def _fraction(data: dict, order: list[int], percent: float, fold: int, unlabeled: str, where: str) -> Split:
    count = math.floor(len(order) * percent / 100 + 0.5)
    if count == 0:
        raise ValueError(f"{where}: {percent:g} % of {len(order)} images is no image")
    sources = set(order[:count])
    selected = {image["id"] for image in data["images"] if _source(image) in sources}
    shared = {key: value for key, value in data.items() if key not in ("images", "annotations")}
    labeled = {
        **shared,
        "images": [image for image in data["images"] if image["id"] in selected],
        "annotations": [annotation for annotation in data["annotations"] if annotation["image_id"] in selected],
    }
    rest = [image for image in data["images"] if unlabeled == "all" or image["id"] not in selected]
    return Split(percent, fold, labeled, {**shared, "images": rest, "annotations": []})


def make_splits(
    data: dict,
    percents: Sequence[float],
    folds: int,
    seed: int,
    *,
    unlabeled: str = "rest",
    allow_missing_classes: bool = False,
    where: str = "the json",
) -> list[Split]:
    """Draw random fractions of the images of a COCO content, which are nested within a fold.

    Tiles that `write_tiles` cut out of one image are labeled together and count as that image.

    Args:
        data: content of a validated COCO json.
        percents: sizes in percent of all images, each > 0 and < 100.
        folds: number of independent random orders; folds are numbered from 0.
        seed: seed of the orders, together with the fold.
        unlabeled: "rest" for the images outside the fraction, "all" for every image.
        allow_missing_classes: whether a fraction may have no image of a class of the whole set.
        where: name of the json, for messages.

    Returns:
        the splits, ordered by fold, then percent.

    Raises:
        ValueError: a percentage is out of range, or leaves no image, or no image of some class.
    """
    if "annotations" not in data or not data.get("categories"):
        raise ValueError(f"{where} has no annotations to split")
    wrong = [percent for percent in percents if not 0 < percent < 100]
    if wrong or not percents or folds < 1:
        raise ValueError(f"percentages must be above 0 and below 100, and folds at least 1: {wrong or list(percents)}")
    splits = []
    for fold in range(folds):
        order = _order(data, seed, fold)
        for percent in sorted(set(percents)):
            split = _fraction(data, order, percent, fold, unlabeled, where)
            if not allow_missing_classes:
                _check_classes(data, split.labeled["annotations"], f"{where}: {percent:g} % (fold {fold})")
            splits.append(split)
    return splits


def check_leakage(
    json_file: str | os.PathLike,
    data: dict,
    val_json: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    val_image_root: str | os.PathLike | None = None,
) -> None:
    """Refuse a training set that shares an image with a validation set.

    Without `image_root` the file names in the jsons are compared. With it the contents of the files are compared, so
    that a copy under another name is found, and an equal name in another folder is allowed.

    Args:
        json_file: json of the training set, for the message.
        data: content of that json.
        val_json: json of the validation set.
        image_root: folder of the training images.
        val_image_root: folder of the validation images; by default `image_root`.

    Raises:
        ValueError: an image of the training set is in the validation set.
    """
    val, _ = read_coco(val_json, val_image_root or image_root)
    if image_root is None:
        names = {image["file_name"] for image in data["images"]}
        pairs = [(i["file_name"], i["file_name"]) for i in val["images"] if i["file_name"] in names]
    else:
        pairs = find_copies(
            [os.path.join(image_root, image["file_name"]) for image in data["images"]],
            [os.path.join(val_image_root or image_root, image["file_name"]) for image in val["images"]],
        )
    if pairs:
        raise ValueError(
            f"'{json_file}' shares {len(pairs)} image(s) with the validation set '{val_json}', "
            f"for example '{pairs[0][0]}' is '{pairs[0][1]}'"
        )


def write_splits(
    json_file: str | os.PathLike,
    percents: Sequence[float],
    folds: int,
    seed: int,
    output: str | os.PathLike | None = None,
    *,
    unlabeled: str = "rest",
    val_jsons: Sequence[str | os.PathLike] = (),
    image_root: str | os.PathLike | None = None,
    val_image_root: str | os.PathLike | None = None,
    allow_missing_classes: bool = False,
) -> list[Path]:
    """Validate a COCO json and write its splits as `{stem}_{percent}_fold{k}.json` and `..._unlabeled.json`.

    All checks come before the first file. The bytes depend on the json and the arguments alone. `validate_coco`,
    `make_splits` and `check_leakage` explain the errors and the other arguments.

    Args:
        json_file: COCO json to split.
        output: folder of the splits; by default `splits` beside the json.
        val_jsons: jsons of validation sets, which must share no image with the json.

    Returns:
        the paths written.
    """
    source = Path(json_file)
    data = validate_coco(source, image_root)
    for val_json in val_jsons:
        if val_image_root is not None or image_root is not None:
            validate_coco(val_json, val_image_root or image_root)
        check_leakage(source, data, val_json, image_root, val_image_root)
    options = {"unlabeled": unlabeled, "allow_missing_classes": allow_missing_classes}
    splits = make_splits(data, percents, folds, seed, where=f"'{source}'", **options)
    folder = Path(output) if output is not None else source.parent / "splits"
    return [
        write_json(folder / f"{source.stem}_{split_name(split.percent, split.fold, is_unlabeled)}.json", content)
        for split in splits
        for content, is_unlabeled in ((split.labeled, False), (split.unlabeled, True))
    ]
