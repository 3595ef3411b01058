"""Labels and predictions are read for an audit."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2kit.coco_masks import compress_segmentation
from d2kit.rle import count_strings
from s4m.data.coco import complete_annotations, validate_coco
from s4m.data.coco_ids import plain_id


def read_labels(path: str | os.PathLike, images: str | os.PathLike | None = None) -> dict:
    """Read a COCO json whose masks become RLE with compressed counts; see `validate_coco`.

    The RLE of `teacher_segmentation` are checked, too.
    """
    data = validate_coco(path, images)
    data.setdefault("annotations", [])
    data.setdefault("categories", [])
    complete_annotations(data)
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    for annotation in data["annotations"]:
        for key in ("segmentation", "teacher_segmentation"):
            if annotation.get(key):
                told = f"'{path}': annotation {annotation['id']}"
                annotation[key] = _rle(annotation[key], sizes[annotation["image_id"]], told)
        for key in ("score", "confidence", "sam_quality", "agreement"):
            if not (annotation.get(key) is None or _is_share(annotation[key])):
                raise ValueError(f"'{path}': annotation {annotation['id']} has {key} {annotation[key]!r:.40}.")
    return data


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


def _rle(segmentation: Any, size: tuple[int, int], told: str) -> dict:
    try:
        rle = compress_segmentation(segmentation, *size)
    except ValueError as error:
        raise ValueError(f"{told}: {error}.") from error
    counts = rle["counts"].decode("ascii") if isinstance(rle["counts"], bytes) else rle["counts"]
    if int(count_strings([counts])[0]) != math.prod(size):  # pycocotools decodes it to what is in memory.
        raise ValueError(f"{told} has a damaged RLE.")
    return {"size": list(size), "counts": counts}


def read_predictions(path: str | os.PathLike, labels: Mapping) -> list[dict]:
    """Read COCO results, or a COCO json whose annotations have a `score`, of the images of labels.

    The images of a COCO json are found by their file names, and its classes by their names.

    Args:
        path: file of a list of results, or of a COCO json.
        labels: content of the labels' json.

    Returns:
        results with `image_id` and `category_id` of the labels, `segmentation`, an RLE with compressed counts, and
        `score`. Images that the labels lack are left out.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a prediction is unfit; the message names it.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the predictions '{path}' do not exist.") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"'{path}' is not a JSON file ({error}).") from error
    results = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise ValueError(f"'{path}' is neither a list of COCO results nor a COCO json.")
    images = _ids(content, "images", "file_name", labels)
    categories = _ids(content, "categories", "name", labels)
    sizes = {image["id"]: (image["height"], image["width"]) for image in labels["images"]}
    kept = []
    for number, result in enumerate(results):
        told = f"'{path}': prediction {number}"
        image = images.get(plain_id(result.get("image_id")))
        if image is None:
            continue
        category = categories.get(plain_id(result.get("category_id")))
        if category is None:
            raise ValueError(f"{told} has the category {result.get('category_id')!r:.40}, which the labels lack.")
        if not _is_share(result.get("score")):
            raise ValueError(f"{told} has the score {result.get('score')!r:.40}, which is not within 0 and 1.")
        mask = _rle(result.get("segmentation"), sizes[image], told)
        kept.append({"image_id": image, "category_id": category, "score": result["score"], "segmentation": mask})
    if results and not kept:
        raise ValueError(f"'{path}' has no prediction for any of the images of the labels.")
    return kept


def _ids(content: Any, part: str, key: str, labels: Mapping) -> dict:
    """Return the labels' id by the id in a predictions' file: by names where it has them, else the same."""
    known = {record[key]: record["id"] for record in labels[part]}
    if not isinstance(content, dict) or not isinstance(content.get(part), list):
        return {number: number for number in known.values()}
    records = [record for record in content[part] if isinstance(record, dict) and isinstance(record.get(key), str)]
    return {plain_id(record.get("id")): known[record[key]] for record in records if record[key] in known}
