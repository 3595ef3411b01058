"""Benchmark of the COCO evaluation: pycocotools against what `build_coco_evaluator` takes where it is installed."""

import argparse
import contextlib
import copy
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from d2kit.benchmark import Case, Comparison, Goal, Scenario
from d2kit.coco_masks import decode_segmentation, encode_mask
from s4m.config import add_s4m_config
from s4m.data.coco import read_json
from s4m.evaluation import coco

_IMAGES, _SIZE, _INSTANCES, _CLASSES = 8, (256, 256), 80, 3  # of the drawn annotations
_TOLERANCE = 1e-6


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """The options of this scenario."""
    group.add_argument("--annotations", nargs="+", default=[], metavar="JSON", help="coco_ap: instead of drawn ones")
    group.add_argument("--detections", type=int, default=100, help="coco_ap: most detections an image (default: 100)")


def draw_annotations(images: int, instances: int, seed: int = 0) -> dict:
    """A COCO json of images with as many ellipses each, in three classes, a few of them crowds."""
    rng, (height, width) = np.random.default_rng(seed), _SIZE
    annotations = []
    for image in range(1, images + 1):
        for _ in range(instances):
            mask = np.zeros(_SIZE, np.uint8)
            center = rng.integers(0, (width, height)).tolist()
            cv2.ellipse(mask, center, rng.integers(3, 25, 2).tolist(), rng.uniform(0, 180), 0, 360, 1, -1)
            found = {"image_id": image, "category_id": int(rng.integers(1, _CLASSES + 1)), **encode_mask(mask)}
            crowd = int(rng.random() < 0.03)
            annotations.append({**found, "id": len(annotations) + 1, "iscrowd": crowd, "area": int(mask.sum())})
    return {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": f"class{i}"} for i in range(_CLASSES)],
    }


def draw_detections(data: dict, limit: int, seed: int = 0) -> dict[int, list[dict]]:
    """What a fair network might find: true masks moved, grown or shrunk, some missed, some twice or of another class.

    Args:
        data: COCO json with annotations.
        limit: most detections an image.

    Returns:
        for each image id the detections in COCO's result format; scores are rounded, so that some are equal.
    """
    rng = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    categories = [category["id"] for category in data["categories"]]
    found: dict[int, list[dict]] = {image: [] for image in sizes}
    for annotation in data["annotations"]:
        truth = decode_segmentation(annotation["segmentation"], *sizes[annotation["image_id"]])
        for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.6, 0.3])):
            mask = _spoil(truth, rng)
            category = rng.choice(categories) if rng.random() < 0.2 else annotation["category_id"]
            if mask.any() and len(found[annotation["image_id"]]) < limit:
                score = round(float(rng.random()), 2)
                item = {"image_id": annotation["image_id"], "category_id": int(category), "score": score}
                found[annotation["image_id"]].append({**item, **encode_mask(mask)})
    return found


def _spoil(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask as it is, moved by up to a tenth of its extent, grown or shrunk by a pixel."""
    change = rng.choice(["none", "move", "grow", "shrink"])
    if change == "move":
        reach = 1 + int(0.1 * math.sqrt(mask.sum()))
        return np.roll(mask, rng.integers(-reach, reach + 1, 2), axis=(0, 1))
    kernel = np.ones((3, 3), np.uint8)
    return {"none": mask, "grow": cv2.dilate(mask, kernel), "shrink": cv2.erode(mask, kernel)}[change]


def make_evaluator(fast: bool, data: dict, found: dict[int, list[dict]], json_file: str, limit: int) -> COCOEvaluator:
    """The project's evaluator, as if it had processed the detections.

    Args:
        fast: S4M.COCO_EVAL.FAST.
        data, json_file: the annotations and the file that holds them.
        found: of `draw_detections`.
        limit: detections an image that count, 100 or more.
    """
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.S4M.COCO_EVAL.FAST, cfg.TEST.DETECTIONS_PER_IMAGE = fast, limit
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
        for image, items in found.items()
    ]
    return evaluator


def _evaluation(evaluator: COCOEvaluator) -> Callable[[], dict[str, dict[str, float]]]:
    """A way that evaluates in silence; Detectron2 writes into the predictions, so each time it gets a copy."""
    predictions = evaluator._predictions

    def evaluate() -> dict[str, dict[str, float]]:
        evaluator._predictions = copy.deepcopy(predictions)
        with contextlib.redirect_stdout(io.StringIO()):
            return evaluator.evaluate()

    return evaluate


def ap_difference(plain: dict[str, dict[str, float]], ours: dict[str, dict[str, float]]) -> dict[str, float]:
    """Greatest difference of any figure, in percent; two that cannot be computed are equal."""
    figures = {(task, name) for results in (plain, ours) for task in results for name in results[task]}
    pairs = [(plain.get(t, {}).get(n, math.inf), ours.get(t, {}).get(n, math.inf)) for t, n in figures]
    apart = [abs(one - other) for one, other in pairs if not (math.isnan(one) and math.isnan(other))]
    return {"AP in percent": float(np.max(apart, initial=0.0))}


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    if not coco.INSTALLED or options.detections < 1:
        raise ValueError("coco_ap needs faster-coco-eval, and --detections of 1 or more.")
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder, "drawn.json")
        if not options.annotations:
            drawn.write_text(json.dumps(draw_annotations(_IMAGES, _INSTANCES)), encoding="utf-8")
        for json_file in options.annotations or [str(drawn)]:
            data = read_json(json_file)
            found = draw_detections(data, options.detections)
            limit = max(100, options.detections)
            ways = {
                name: _evaluation(make_evaluator(fast, data, found, json_file, limit))
                for name, fast in (("pycocotools", False), ("faster-coco-eval", True))
            }
            yield Case(
                settings={
                    "annotations": Path(json_file).name,
                    "images": len(data["images"]),
                    "instances": len(data["annotations"]),
                    "detections": sum(map(len, found.values())),
                    "limit": limit,
                },
                ways=ways,
                comparisons=[
                    Comparison(
                        *ways,
                        ap_difference,
                        {"AP in percent": _TOLERANCE},
                        [Goal("at least 3 times as fast", "speed_ratio", 3.0)],
                    )
                ],
                memory="python",
            )


SCENARIO = Scenario("coco_ap", "box and mask AP by pycocotools, against faster-coco-eval", _cases)
