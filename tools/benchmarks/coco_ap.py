"""The scenario compares COCO's average precision by pycocotools with that by faster-coco-eval."""

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

from benchmarks.harness import Case, Comparison, Goal
from d2kit.coco_masks import decode_segmentation, encode_mask
from s4m.config import add_s4m_config
from s4m.data.coco import read_json
from s4m.data.shapes import write_shapes
from s4m.evaluation import coco

IMAGES = 8
INSTANCES = 80  # Each drawn image has this many.

Detections = dict[int, list[dict]]
Figures = dict[str, dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the scenario."""
    parser.add_argument("--annotations", nargs="+", default=[], metavar="JSON", help="coco_ap: instead of drawn ones")
    parser.add_argument("--detections", type=int, default=100, help="coco_ap: most detections an image (default: 100)")


def draw_annotations(folder: str | os.PathLike, images: int, instances: int) -> str:
    """Draw images with up to `instances` small shapes each, every thirtieth of them a crowd; return their COCO json."""
    small = {"radius": (0.015, 0.1), "min_visible": 0.1, "min_area": 6}
    data = read_json(str(write_shapes(folder, images, 0, (256, 256), objects=(instances, instances), **small)))
    for annotation in data["annotations"][::30]:
        annotation["iscrowd"] = 1
    file = Path(folder, "drawn.json")
    file.write_text(json.dumps(data), encoding="utf-8")
    return str(file)


def draw_detections(data: dict, limit: int) -> Detections:
    """Draw what a fair network might find: shifted true masks, some missed, some twice or with another class.

    Returns:
        for each image id at most `limit` detections in COCO's result format. Rounded scores make some of them equal.
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
    """Return the project's evaluator as if it had processed the detections for the annotations `data` of `json_file`.

    `fast` is S4M.COCO_EVAL.FAST. The best `limit` detections of an image and a class count, 100 or more.
    """
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.S4M.COCO_EVAL.FAST = fast
    cfg.TEST.DETECTIONS_PER_IMAGE = limit
    indices = {category["id"]: index for index, category in enumerate(data["categories"])}
    names = [category["name"] for category in data["categories"]]
    metadata = MetadataCatalog.get(json_file)
    metadata.set(json_file=json_file, thing_classes=names, thing_dataset_id_to_contiguous_id=indices)
    evaluator = coco.build_coco_evaluator(cfg, json_file)
    evaluator._output_dir = None
    evaluator._predictions = [
        {"image_id": image, "instances": [{**item, "category_id": indices[item["category_id"]]} for item in items]}
        for image, items in detections.items()
    ]
    return evaluator


def evaluate_copy(evaluator: COCOEvaluator, predictions: list[dict]) -> Figures:
    """Return the figures without printing; each evaluation gets a copy because Detectron2 changes the predictions."""
    evaluator._predictions = copy.deepcopy(predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def ap_difference(plain: Figures, ours: Figures) -> dict[str, float]:
    """Return the greatest difference of any figure, in percent; two figures that cannot be computed are equal."""
    figures = {(task, name) for results in (plain, ours) for task in results for name in results[task]}
    values = np.array([[results.get(t, {}).get(n, math.inf) for t, n in figures] for results in (plain, ours)])
    values = values[:, ~np.isnan(values).all(axis=0)]
    return {"AP in percent": float(np.abs(values[0] - values[1]).max(initial=0.0))}


def coco_ap(options: argparse.Namespace) -> Iterator[Case]:
    """Box and mask AP by pycocotools are compared with those by faster-coco-eval."""
    if not coco.INSTALLED or options.detections < 1:
        raise ValueError("coco_ap needs faster-coco-eval, and --detections of 1 or more.")
    with tempfile.TemporaryDirectory() as folder:
        for json_file in options.annotations or [draw_annotations(folder, IMAGES, INSTANCES)]:
            data = read_json(json_file)
            detections = draw_detections(data, options.detections)
            settings = {
                "annotations": Path(json_file).name,
                "images": len(data["images"]),
                "instances": len(data["annotations"]),
                "detections": sum(map(len, detections.values())),
                "limit": max(100, options.detections),
            }
            ways = {}
            for name, fast in (("pycocotools", False), ("faster-coco-eval", True)):
                evaluator = make_evaluator(fast, data, detections, json_file, settings["limit"])
                ways[name] = partial(evaluate_copy, evaluator, evaluator._predictions)
            goal = Goal("at least 3 times as fast", "speed_ratio", 3.0)
            comparison = Comparison(*ways, ap_difference, {"AP in percent": 1e-6}, [goal])
            yield Case(settings, ways, [comparison], memory="python")
