"""COCO's average precision by pycocotools, against what `build_coco_evaluator` takes where it is installed."""

import argparse
import contextlib
import copy
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from benchmarks.harness import Case, Comparison, Goal, scenario
from d2kit.coco_masks import decode_segmentation, encode_mask
from s4m.config import add_s4m_config
from s4m.data.coco import read_json
from s4m.data.shapes import write_shapes
from s4m.evaluation import coco

IMAGES = 8
INSTANCES = 80  # Of each drawn image.

Detections = dict[int, list[dict]]
Figures = dict[str, dict[str, float]]


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--annotations", nargs="+", default=[], metavar="JSON", help="coco_ap: instead of drawn ones")
    parser.add_argument("--detections", type=int, default=100, help="coco_ap: most detections an image (default: 100)")


def draw_annotations(folder: str | os.PathLike, images: int, instances: int) -> str:
    """Draw images with as many small shapes each, every thirtieth of which is a crowd; returns their COCO json."""
    small = {"radius": (0.015, 0.1), "min_visible": 0.1, "min_area": 6}
    data = read_json(str(write_shapes(folder, images, 0, (256, 256), objects=(instances, instances), **small)))
    for annotation in data["annotations"][::30]:
        annotation["iscrowd"] = 1
    file = Path(folder, "drawn.json")
    file.write_text(json.dumps(data), encoding="utf-8")
    return str(file)


def draw_detections(data: dict, limit: int) -> Detections:
    """What a fair network might find: true masks moved a little, some missed, some twice or of another class.

    Returns:
        for each image id at most `limit` detections in COCO's result format; scores are rounded, so some are equal.
    """
    rng = np.random.default_rng(0)
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    categories = [category["id"] for category in data["categories"]]
    detections: Detections = {image: [] for image in sizes}
    for annotation in data["annotations"]:
        image = annotation["image_id"]
        truth = decode_segmentation(annotation["segmentation"], *sizes[image])
        reach = int(0.2 * math.sqrt(truth.sum()))
        for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.6, 0.3])):
            mask = np.roll(truth, rng.integers(-reach, reach + 1, 2), axis=(0, 1))
            category = rng.choice(categories) if rng.random() < 0.2 else annotation["category_id"]
            if mask.any() and len(detections[image]) < limit:
                item = {"image_id": image, "category_id": int(category), "score": round(float(rng.random()), 2)}
                detections[image].append({**item, **encode_mask(mask)})
    return detections


def make_evaluator(fast: bool, data: dict, detections: Detections, json_file: str, limit: int) -> COCOEvaluator:
    """The project's evaluator, as if it had processed the detections of the annotations `data` in `json_file`.

    `fast` is S4M.COCO_EVAL.FAST; the first `limit` detections of an image count, 100 or more.
    """
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.S4M.COCO_EVAL.FAST = fast
    cfg.TEST.DETECTIONS_PER_IMAGE = limit
    indices = {category["id"]: index for index, category in enumerate(data["categories"])}
    MetadataCatalog.get(json_file).set(
        json_file=json_file,
        thing_classes=[category["name"] for category in data["categories"]],
        thing_dataset_id_to_contiguous_id=indices,
    )
    evaluator = coco.build_coco_evaluator(cfg, json_file)
    evaluator._output_dir = None
    evaluator._predictions = [
        {"image_id": image, "instances": [{**item, "category_id": indices[item["category_id"]]} for item in items]}
        for image, items in detections.items()
    ]
    return evaluator


def _evaluate(evaluator: COCOEvaluator, predictions: list[dict]) -> Figures:
    """The figures, in silence. Detectron2 writes into the predictions, so each evaluation gets a copy."""
    evaluator._predictions = copy.deepcopy(predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def ap_difference(plain: Figures, ours: Figures) -> dict[str, float]:
    """Greatest difference of any figure, in percent; two that cannot be computed are equal."""
    figures = {(task, name) for results in (plain, ours) for task in results for name in results[task]}
    pairs = [(plain.get(t, {}).get(n, math.inf), ours.get(t, {}).get(n, math.inf)) for t, n in figures]
    apart = [abs(one - other) for one, other in pairs if not (math.isnan(one) and math.isnan(other))]
    return {"AP in percent": float(np.max(apart, initial=0.0))}


@scenario("coco_ap", "box and mask AP by pycocotools, against faster-coco-eval")
def average_precision(options: argparse.Namespace) -> Iterator[Case]:
    if not coco.INSTALLED or options.detections < 1:
        raise ValueError("coco_ap needs faster-coco-eval, and --detections of 1 or more.")
    with tempfile.TemporaryDirectory() as folder:
        for json_file in options.annotations or [draw_annotations(folder, IMAGES, INSTANCES)]:
            yield _case(json_file, options.detections)


def _case(json_file: str, most: int) -> Case:
    data = read_json(json_file)
    detections = draw_detections(data, most)
    limit = max(100, most)
    ways = {}
    for name, fast in (("pycocotools", False), ("faster-coco-eval", True)):
        evaluator = make_evaluator(fast, data, detections, json_file, limit)
        ways[name] = partial(_evaluate, evaluator, evaluator._predictions)
    settings = {
        "annotations": Path(json_file).name,
        "images": len(data["images"]),
        "instances": len(data["annotations"]),
        "detections": sum(map(len, detections.values())),
        "limit": limit,
    }
    goal = Goal("at least 3 times as fast", "speed_ratio", 3.0)
    return Case(settings, ways, [Comparison(*ways, ap_difference, {"AP in percent": 1e-6}, [goal])], memory="python")
