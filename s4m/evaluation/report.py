"""Tables and pictures out of finished trainings' folders."""

import colorsys
import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.utils.visualizer import ColorMode, Visualizer

from d2kit.files import write_png
from s4m.data.datasets_by_path import resolve_datasets

METRICS = ("segm/AP", "segm/AP50", "segm/AP75", "bbox/AP")
QUALITY = tuple(
    f"pseudo_label_quality/{name}"
    for name in (
        *(f"{when}/{what}" for when in ("before", "after") for what in ("precision", "recall", "iou")),
        *("labels", "refined", "rejected", "match/over_segmented", "ece/class_score", "ece/calibrated_confidence"),
    )
)
PANEL = 512  # width of a picture's column in pixels: images of all sizes stand below the title of their column


def final_metrics(folder: str | Path) -> dict[str, float]:
    """The last evaluation in a training's `metrics.json`.

    Args:
        folder: OUTPUT_DIR of the training.

    Returns:
        `student/segm/AP` and the like, in percent, for the networks that were evaluated, what was measured of `QUALITY`
        (fractions and numbers an image), and `iteration`.

    Raises:
        ValueError: the training was never evaluated.
    """
    path = Path(folder, "metrics.json")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    evaluated = [line for line in lines if "student/segm/AP" in line]
    if not evaluated:
        raise ValueError(f"'{path}' holds no evaluation.")
    # the quality of pseudo-labels is measured before the last evaluation, in a line of its own
    measured = [line for line in lines if QUALITY[0] in line]
    last = {**(measured[-1] if measured else {}), **evaluated[-1]}
    wanted = [f"{network}/{metric}" for network in ("student", "teacher") for metric in METRICS]
    wanted += QUALITY
    return {"iteration": last["iteration"], **{key: last[key] for key in wanted if key in last}}


def format_table(rows: Mapping[str, Mapping[str, str]]) -> str:
    """A Markdown table, one row a training; a network that does not exist is a dash.

    Args:
        rows: for each title the texts of `final_metrics`' figures and of `seconds`.
    """
    columns = [f"{network}/{metric}" for network in ("student", "teacher") for metric in ("segm/AP", "segm/AP50")]
    columns += ["student/bbox/AP", "seconds"]
    names = [column.replace("segm/", "mask ").replace("bbox/", "box ").replace("/", " ") for column in columns]
    lines = ["| method | " + " | ".join(names) + " |", "|---" * (len(columns) + 1) + "|"]
    for title, row in rows.items():
        lines.append(f"| {title} | " + " | ".join(row.get(column, "-") for column in columns) + " |")
    return "\n".join(lines)


def _draw(image: np.ndarray, masks: list, labels: list[str], classes: list[int]) -> np.ndarray:
    """(~PANEL H / W, PANEL, 3) RGB: the image in grey under masks in one vivid colour a class, none to be mistaken."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    colors = [colorsys.hsv_to_rgb(c * 0.618034 % 1, 0.95, 1.0) for c in classes]
    canvas = Visualizer(grey, scale=PANEL / image.shape[1], instance_mode=ColorMode.IMAGE)
    drawn = canvas.overlay_instances(masks=masks, labels=labels, assigned_colors=colors, alpha=0.45).get_image()
    return cv2.resize(drawn, (PANEL, round(PANEL * image.shape[0] / image.shape[1])))


def _panel(record: dict, metadata, found: list[dict], score: float) -> np.ndarray:
    image = utils.read_image(record["file_name"], "RGB")
    kept = [item for item in found if item["image_id"] == record["image_id"] and item["score"] >= score]
    to_index = getattr(metadata, "thing_dataset_id_to_contiguous_id", {})
    classes = [to_index.get(item["category_id"], item["category_id"]) for item in kept]
    labels = [f"{metadata.thing_classes[c]} {item['score']:.2f}" for c, item in zip(classes, kept, strict=True)]
    return _draw(image, [mask_util.decode(item["segmentation"]) for item in kept], labels, classes)


def _truth(record: dict, metadata) -> np.ndarray:
    image = utils.read_image(record["file_name"], "RGB")
    annotations = [a for a in record.get("annotations", []) if not a.get("iscrowd")]
    classes = [a["category_id"] for a in annotations]
    masks = [a["segmentation"] for a in annotations]
    masks = [mask_util.decode(m) if isinstance(m, dict) and isinstance(m["counts"], (bytes, str)) else m for m in masks]
    return _draw(image, masks, [metadata.thing_classes[c] for c in classes], classes)


def _framed(panel: np.ndarray) -> np.ndarray:
    return np.pad(panel, ((0, 4), (0, 4), (0, 0)), constant_values=255)


def comparison_picture(
    folders: Mapping[str, str | Path], dataset: str, output: str | Path, *, images: int = 6, score: float = 0.5
) -> Path:
    """Ground truth beside the students' predictions on the first test images, all columns of one width.

    Args:
        folders: title of each training and its OUTPUT_DIR.
        dataset: the test data set, registered or named by path.
        output: folder for `comparison.png`.
        images: rows of the picture.
        score: least score of a prediction that is drawn.

    Returns:
        path of the picture.
    """
    resolve_datasets([dataset])
    records, metadata = DatasetCatalog.get(dataset)[:images], MetadataCatalog.get(dataset)
    results = {}
    for title, folder in folders.items():
        file = Path(folder, "student", "inference", "coco_instances_results.json")
        results[title] = json.loads(file.read_text(encoding="utf-8"))
    titles = []
    for title in ("ground truth", *results):
        titles.append(np.full((28, PANEL, 3), 255, np.uint8))
        cv2.putText(titles[-1], title, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    rows = [titles]
    for record in records:
        rows.append([_truth(record, metadata)] + [_panel(record, metadata, found, score) for found in results.values()])
    picture = np.concatenate([np.concatenate([_framed(panel) for panel in row], axis=1) for row in rows])
    path = Path(output, "comparison.png")
    write_png(path, picture[:, :, ::-1])
    return path
