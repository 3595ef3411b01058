"""What `s4m report` and the end of a training show of S4M, beside what every training has."""

import json
import os
import re
import shlex
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO

from d2kit.coco_masks import segmentation_problem
from d2kit.config_files import compose_config
from d2kit.files import first_line
from d2kit.report.figures import COLORS, svg
from d2kit.report.page import Chart, Section
from d2kit.report.pictures import Picture, data_uri, draw_masks
from d2kit.report.report import Curves, ReportParts
from d2kit.report.runs import Run
from s4m.config import add_s4m_config
from s4m.data.coco import complete_annotations
from s4m.data.datasets_by_path import resolve_config_datasets
from s4m.data.images import read_image
from s4m.evaluation.coco import read_truth
from s4m.evaluation.reliability import read_reliability, reliability_figure

SHOWN = 4  # images of each end, best and worst
GRAY = "#808080"
SCORE = 0.5  # least score of the predictions that pictures show
_SETS = r"(student|teacher)/(?:(.+)/)?((?:bbox|segm|boundary|voc|voc_bbox)/[^/]+)"
_NETWORKS = {"student": "student", "teacher": "teacher"}

CURVES = (
    Curves(
        "Accuracy of masks",
        "AP in percent on the test images.",
        r"(?P<line>student|teacher)/(?P<panel>(?:.+/)?(?:(?:segm|boundary)/AP(?:50|75)?|voc/APr(?:50|70|_vol)))",
        _NETWORKS,
    ),
    Curves(
        "Accuracy of boxes",
        "AP in percent on the test images.",
        r"(?P<line>student|teacher)/(?P<panel>(?:.+/)?(?:voc_)?bbox/AP(?:50|75)?)",
        _NETWORKS,
    ),
    Curves(
        "Quality of pseudo-labels",
        "Pseudo-labels of annotated test images, before and after SAM refined them. Right ones have an IoU of 0.5.",
        r"pseudo_label_quality/(?P<line>before|after)/(?P<panel>precision|recall|iou)",
        {"after": "after SAM", "before": "before SAM"},
    ),
    Curves("Total loss", "Medians over twenty iterations.", r"(?P<panel>total_loss)", {}),
    Curves(
        "Losses",
        "Medians over twenty iterations; those on pseudo-labels have their weight.",
        r"(?P<panel>loss_(?!\w+_\d)\w+?)(?P<line>_pseudo)?",
        {"": "labels", "_pseudo": "pseudo-labels"},
    ),
    Curves(
        "Evolution of pseudo-labels",
        "Numbers for an unlabeled image, and shares of the outcomes of matching.",
        r"pseudo_labels/(?P<panel>(?:match/)?\w+)",
        {},
    ),
    Curves(
        "Thresholds of calibration",
        "The scores that the classes' pseudo-labels need.",
        r"calibration/(?P<panel>threshold)_(?P<line>mean|min|max)",
        {"mean": "mean", "min": "least", "max": "greatest"},
    ),
    Curves("Rates", "The learning rate, and the seconds of an iteration.", r"(?P<panel>lr|time)", {}),
)
FACTS = {
    "labeled images": "DATASETS.TRAIN",
    "unlabeled images": "DATASETS.UNLABELED",
    "test images": "DATASETS.TEST",
    "network": "S4M.STUDENT",
    "backbone": "MODEL.BACKBONE.NAME",
    "segmenter": "S4M.SAM.NAME",
    "seed": "SEED",
    "labeled batch": "SOLVER.IMS_PER_BATCH",
    "unlabeled batch": "S4M.UNLABELED_BATCH",
    "device": "MODEL.DEVICE",
}


def _scores(run: Run) -> dict[tuple[str, str, str], float]:
    scores = {}
    for name in run.figures:
        match = re.fullmatch(_SETS, name)
        if match:
            scores[match[2] or "test images", match[1], match[3]] = run.last(name)
    return scores


def _commands(run: Run) -> list[tuple[str, str]]:
    folder, checkpoint = shlex.quote(str(run.folder)), shlex.quote(str(run.checkpoint))
    config = shlex.quote(str(run.folder / "config.yaml"))
    commands = [
        ("Resume the training:", f"s4m train --config-file {config} --resume OUTPUT_DIR {folder}"),
        ("Evaluate the best checkpoint:", f"s4m eval --config-file {config} OUTPUT_DIR {folder}"),
        ("Find instances in images:", f"s4m predict IMAGES --run {folder} --output found"),
        ("Label images:", f"s4m label --run {folder} --images IMAGES --output labels"),
        ("Export:", f"s4m export --run {folder} --output student.onnx"),
    ]
    if not run.config.get("DATASETS.UNLABELED"):
        stage2 = f"s4m train --config-file s4m/own_data_stage2.yaml S4M.TEACHER.WEIGHTS {checkpoint}"
        commands.insert(2, ("Go on with stage 2, after naming its data sets:", stage2))
    return commands


def _sections(runs: Sequence[Run]) -> list[Section]:
    diagrams = []
    for run in runs:
        sums = read_reliability({name: run.last(name) for name in run.figures})
        if sums:
            diagrams.append(Chart(run.name, svg(reliability_figure(sums)), wide=True))
    sections = []
    if diagrams:
        text = "The mean IoU that pseudo-labels reach over their confidence, in the last evaluation."
        sections.append(Section("Calibration", [text], charts=diagrams))
    return sections + [_pictures(run, several=len(runs) > 1) for run in runs]


def _pictures(run: Run, several: bool) -> Section:
    """Show the best and the worst images, or say why not."""
    title = f"Images of {run.name}" if several else "Best and worst images"
    network = run.config.get("S4M.TEST.NETWORK", "student")
    path = run.folder / network / "inference" / "coco_instances_results.json"
    try:
        if not run.config:
            raise FileNotFoundError("config.yaml cannot be read.")
        cfg = compose_config([run.folder / "config.yaml"], add_keys=[add_s4m_config])
        resolve_config_datasets(cfg)
        name = cfg.DATASETS.TEST[-1]  # The last test set's predictions are in the file.
        truth = read_truth(cfg, name)
        complete_annotations(truth.dataset)
        rated = rate_images(truth, _read_predictions(path, truth))
        rows = [("worst", rated[:SHOWN]), ("best", rated[: -SHOWN - 1 : -1])]
        galleries = [(heading, [_picture(cfg, name, truth, *image) for image in images]) for heading, images in rows]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return Section(title, [f"The pictures are left out: {first_line(error)}"])
    text = (
        f"Objects of the {network} with a score of at least {SCORE}, at the right of the true ones. The quality of an "
        "image is the sum of the IoUs above 0.5, divided by the mean of the numbers of found and true objects."
    )
    names = [truth.cats[key]["name"] for key in sorted(truth.cats)]
    return Section(title, [text], legend=class_legend(names), galleries=galleries)


def class_legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the color and the name of each class; nothing where there are more classes than colors."""
    return list(zip(COLORS, names, strict=False)) if len(names) <= len(COLORS) else []


def class_color(index: int) -> str:
    """Return the color of a class by its index, gray for an ignored region."""
    return COLORS[index % len(COLORS)] if index >= 0 else GRAY


def _read_predictions(path: Path, truth: COCO) -> list[dict]:
    """Read the predictions with a score of SCORE from the file of COCO's evaluator."""
    predictions = [item for item in json.loads(path.read_text(encoding="utf-8")) if item["score"] >= SCORE]
    for item in predictions:
        image = truth.imgs[item["image_id"]]
        problem = segmentation_problem(item["segmentation"], image["height"], image["width"])
        if problem:
            raise ValueError(f"'{path}': a prediction {problem}.")
    return predictions


def rate_images(truth: COCO, predictions: Sequence[dict]) -> list[tuple[int, float, list[dict]]]:
    """Rate images by panoptic quality: sum of the IoUs of matches / mean number of predicted and true objects.

    A prediction matches the true object of its class that it overlaps most, with an IoU above 0.5, unless a prediction
    with a better score took that one. Crowds do not count.

    Args:
        truth: the annotations.
        predictions: COCO results with RLE masks.

    Returns:
        (image id, quality in [0, 1], predictions) by rising quality; images without any object are left out.
    """
    found: dict[int, list[dict]] = {image_id: [] for image_id in truth.imgs}
    for item in sorted(predictions, key=itemgetter("score"), reverse=True):
        found[item["image_id"]].append(item)
    rated = []
    for image_id, items in found.items():
        objects = truth.loadAnns(truth.getAnnIds(imgIds=[image_id], iscrowd=False))
        if items or objects:
            rated.append((image_id, _quality(truth, items, objects), items))
    return sorted(rated, key=itemgetter(1))


def _quality(truth: COCO, items: Sequence[dict], objects: Sequence[dict]) -> float:
    if not items or not objects:
        return 0.0
    masks = [truth.annToRLE(item) for item in objects]
    iou = np.array(mask_util.iou([item["segmentation"] for item in items], masks, [0] * len(masks)))
    iou *= [[item["category_id"] == o["category_id"] for o in objects] for item in items]
    total = 0.0
    for row in iou:
        best = row.argmax()
        if row[best] > 0.5:
            total += row[best]
            iou[:, best] = 0
    return 2 * total / (len(items) + len(objects))


def _picture(cfg: CfgNode, name: str, truth: COCO, image_id: int, quality: float, items: list[dict]) -> Picture:
    file_name = os.path.join(MetadataCatalog.get(name).image_root, truth.imgs[image_id]["file_name"])
    image = read_image(file_name, "RGB", cfg.INPUT.RANGE)
    objects = truth.loadAnns(truth.getAnnIds(imgIds=[image_id], iscrowd=False))
    order = sorted(truth.cats)
    halves = []
    for instances in (objects, items):
        colors = [class_color(order.index(item["category_id"])) for item in instances]
        halves.append(draw_masks(image, [truth.annToMask(item).astype(bool) for item in instances], colors))
    caption = f"{truth.imgs[image_id]['file_name']}\nquality {quality:.2f}, {len(objects)} true, {len(items)} predicted"
    halves.insert(1, np.full((len(halves[0]), 4, 3), 255, np.uint8))
    return Picture(caption, data_uri(np.concatenate(halves, axis=1)))


REPORT_PARTS = ReportParts("s4m", add_s4m_config, FACTS, CURVES, _scores, _sections, _commands)
