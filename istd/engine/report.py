"""What `istd report` and the end of a training show of ISTD, beside what every training has."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util

from d2kit.coco_masks import segmentation_problem
from d2kit.files import first_line
from d2kit.report.figures import COLORS
from d2kit.report.page import Section
from d2kit.report.pictures import Picture, data_uri, draw_masks
from d2kit.report.report import Curves, ReportParts
from d2kit.report.runs import Run
from d2kit.run_folder import read_note
from istd.config import add_istd_config
from istd.data.images import read_infrared, read_mask
from istd.engine.data import load_datasets

SHOWN = 4  # images of each end, best and worst
_MEASURES = "IoU|nIoU|Pd|Fa|AUC|F1"
_NETWORKS = {"istd": "student", "istd_teacher": "teacher"}
_LEGEND = [(COLORS[2], "true"), (COLORS[1], "found")]

CURVES = (
    Curves(
        "Accuracy by masks",
        "On the validation images: IoU, nIoU and Pd in percent, Fa in 1e-6.",
        rf"(?P<line>istd|istd_teacher)/(?P<panel>{_MEASURES})",
        _NETWORKS,
    ),
    Curves(
        "Accuracy by points",
        "On the validation images: F1 and Pd in percent, Fa in 1e-6.",
        rf"(?P<line>istd|istd_teacher)_points/(?P<panel>{_MEASURES})",
        _NETWORKS,
    ),
    Curves("Losses", "Medians over twenty iterations.", r"(?P<panel>total_loss|loss_\w+)", {}),
    Curves(
        "Evolution of pseudo-masks",
        "Images that train, change of the area at an update, IoU with the masks before it, and with the true ones (%).",
        r"labels/(?P<panel>\w+)",
        {},
    ),
    Curves("Outer step and gate", "Figures of the outer steps and of SCAM.", r"(?:outer|scam)/(?P<panel>\w+)", {}),
    Curves("Rates", "The learning rate, and the seconds of an iteration.", r"(?P<panel>lr|time)", {}),
)
FACTS = {
    "training images": "DATASETS.TRAIN",
    "validation images": "DATASETS.VALIDATION",
    "test images": "DATASETS.TEST",
    "network": "ISTD.NETWORK.NAME",
    "foundation model": "ISTD.VFM.NAME",
    "labels": "ISTD.LABELS.SOURCE",
    "first masks": "ISTD.LABELS.START",
    "seed": "SEED",
    "batch": "SOLVER.IMS_PER_BATCH",
    "epochs": "ISTD.SCHEDULE.EPOCHS",
    "device": "MODEL.DEVICE",
}


def _scores(run: Run) -> dict[tuple[str, str, str], float]:
    """Return the figures of the last validation, and those of the test with the best checkpoint."""
    scores = {}
    found = [("validation images", name, run.last(name)) for name in run.figures]
    test = read_note(run.folder / "test" / "results.json").get("results", {})
    for name, value in test.items() if isinstance(test, dict) else ():
        data, _, measure = name.rpartition("/istd")
        found.append((f"test, {data}", f"istd{measure}", value))
    for data, name, value in found:
        task, _, measure = name.partition("/")
        network = _NETWORKS.get(task.removesuffix("_points"))
        if network and isinstance(value, (int, float)):
            scores[data, network, measure if task in _NETWORKS else f"{measure} by points"] = value
    return scores


def _commands(run: Run) -> list[tuple[str, str]]:
    folder, config = shlex.quote(str(run.folder)), shlex.quote(str(run.folder / "config.yaml"))
    return [
        ("Resume the training:", f"istd train --config-file {config} --resume OUTPUT_DIR {folder}"),
        ("Evaluate the best checkpoint:", f"istd eval --config-file {config} OUTPUT_DIR {folder}"),
        ("Detect targets in images:", f"istd detect IMAGES --run {folder} --output detections"),
        ("Export:", f"istd export --run {folder} --output student.onnx"),
    ]


def _sections(runs: Sequence[Run]) -> list[Section]:
    return [_pictures(run, several=len(runs) > 1) for run in runs]


def _pictures(run: Run, several: bool) -> Section:
    """Show the best and the worst images of the test or else of the last validation, or say why not."""
    title = f"Images of {run.name}" if several else "Best and worst images"
    place = next((place for place in ("test", "validation") if (run.folder / place / "istd.json").is_file()), "test")
    path = run.folder / place / "istd.json"
    try:
        rows = [row for row in json.loads(path.read_text(encoding="utf-8"))["images"] if row["union"]]
        rows.sort(key=lambda row: row["intersection"] / row["union"])
        masks = _true_masks(run.config.get(f"DATASETS.{place.upper()}", []))
        value_range = run.config.get("ISTD.INPUT.RANGE", "percentiles")
        parts = [("worst", rows[:SHOWN]), ("best", rows[: -SHOWN - 1 : -1])]
        galleries = [(heading, [_picture(row, masks, value_range) for row in part]) for heading, part in parts]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Section(title, [f"The pictures are left out: {first_line(error)}"])
    text = f"Images of the {place} set with the student's predictions, by their IoU."
    return Section(title, [text], legend=_LEGEND, galleries=galleries)


def _true_masks(names: Sequence[str]) -> dict[str, str]:
    """Return the mask file of each image of the data sets that has one."""
    records = load_datasets(names, "DATASETS.TEST")
    return {str(record["file_name"]): record["mask_file"] for record in records if "mask_file" in record}


def _picture(row: dict, masks: dict[str, str], value_range: str) -> Picture:
    gray = read_infrared(row["file_name"], value_range)
    image = np.repeat(np.clip(gray, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    problem = segmentation_problem(row["prediction"], *image.shape[:2])
    if problem:
        raise ValueError(f"the prediction of '{row['file_name']}' {problem}.")
    shown = [(mask_util.decode(row["prediction"]).astype(bool), COLORS[1])]
    if row["file_name"] in masks:
        shown.insert(0, (read_mask(masks[row["file_name"]]).astype(bool), COLORS[2]))
    picture = draw_masks(image, *zip(*shown, strict=True), tint=0)
    caption = (
        f"{Path(row['file_name']).name}\nIoU {100 * row['intersection'] / row['union']:.1f} %, "
        f"{row['found']} of {row['targets']} found, {row['false_pixels']} false pixels"
    )
    return Picture(caption, data_uri(picture))


REPORT_PARTS = ReportParts("istd", add_istd_config, FACTS, CURVES, _scores, _sections, _commands)
