"""tools/compare.py and tools/ablate.py report in tables, in the plot of an ablation and in pictures of comparisons."""

import colorsys
import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib.figure import Figure
from pycocotools.coco import COCO

from d2kit.files import atomic_write, write_png
from experiments.s4m import QUALITY
from experiments.table import Row, markdown, spread

AP = "student/segm/AP"
COMPARISON_COLUMNS = {
    "student mask AP": AP,
    "student mask AP50": "student/segm/AP50",
    "teacher mask AP": "teacher/segm/AP",
    "teacher mask AP50": "teacher/segm/AP50",
    "student box AP": "student/bbox/AP",
}
ABLATION_COLUMNS = {"AP50": "student/segm/AP50", "EMA teacher mask AP": "teacher/segm/AP", "box AP": "student/bbox/AP"}
CHANGES = {
    "pseudo-label precision, before → after SAM": ("before/precision", "after/precision"),
    "pseudo-label recall, before → after SAM": ("before/recall", "after/recall"),
    "pseudo-label IoU, before → after SAM": ("before/iou", "after/iou"),
    "ECE, class score → confidence": ("ece/class_score", "ece/calibrated_confidence"),
}
SHARES = {"SAM's masks accepted": "accepted", "over-segmented": "match/over_segmented"}
PANEL = 512  # All columns of a picture have this width in pixels, whatever the size of the images.


def comparison_table(rows: Sequence[Row]) -> str:
    """Return the table of AP in percent and seconds of training; a training without a teacher has a dash for it."""
    lines = []
    for row in rows:
        cells = [spread(row.values(key)) for key in COMPARISON_COLUMNS.values()]
        lines.append([row.heading, *cells, spread(row.values("seconds"), 0)])
    return markdown(["method", *COMPARISON_COLUMNS, "seconds"], lines)


def differences(row: Row, rows: Sequence[Row]) -> list[float]:
    """Return a row's student mask AP minus that of the row it is compared with, seed by seed."""
    against = next((reference.seeds for reference in rows if reference.name == row.against), {})
    pairs = [(figures, against.get(seed, {})) for seed, figures in row.seeds.items()]
    return [own[AP] - reference[AP] for own, reference in pairs if AP in own and AP in reference]


def ablation_table(rows: Sequence[Row]) -> str:
    """Return a line for each row: AP in percent, differences, pseudo-labels on annotated test images (fractions).

    An instance is over-segmented if SAM's most trusted answer is a part of the object, which matching detects.
    """
    titles = {row.name: row.title for row in rows}
    lines = []
    for row in rows:
        cells = [row.heading, spread(row.values(AP)), spread(differences(row, rows), sign="+")]
        cells.append(titles.get(row.against, "-"))
        cells += [spread(row.values(key)) for key in ABLATION_COLUMNS.values()]
        for keys in CHANGES.values():
            before, after = (row.values(QUALITY + key) for key in keys)
            cells.append(f"{mean(before):.3f} → {mean(after):.3f}" if before and after else "-")
        cells += [spread(row.values(QUALITY + key), 3) for key in SHARES.values()]
        lines.append([*cells, spread(row.values("seconds"), 0)])
    header = ["row", "mask AP", "difference", "against", *ABLATION_COLUMNS, *CHANGES, *SHARES, "seconds"]
    return markdown(header, lines)


def ablation_plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Plot each row's student mask AP (diamond: mean, dots: seeds) beside precision and recall of pseudo-labels."""
    figure = Figure(figsize=(11, 1.4 + 0.34 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    styles = {"precision": ("o", "tab:green"), "recall": ("s", "tab:orange")}
    for y, row in enumerate(rows):
        scores = row.values(AP)
        if not scores:
            left.text(0.01, y, "no figure", va="center", color="firebrick", transform=left.get_yaxis_transform())
            continue
        left.plot([min(scores), max(scores)], [y, y], color="tab:blue", alpha=0.5)
        left.plot(scores, [y] * len(scores), "k.", markersize=5)
        left.plot(mean(scores), y, "D", color="tab:blue", markersize=7, zorder=1)
        change = differences(row, rows)
        note = f"{mean(scores):.1f}" + (f" ({mean(change):+.1f})" if change else "")
        left.annotate(note, (max(scores), y), (8, 0), textcoords="offset points", va="center", fontsize=8)
        for metric, (marker, color) in styles.items():
            for when, face in (("before", "none"), ("after", color)):
                if values := row.values(f"{QUALITY}{when}/{metric}"):
                    right.plot(mean(values), y, marker, color=color, markerfacecolor=face)
    left.set(yticks=range(len(rows)), yticklabels=[row.title for row in rows], xlabel="student mask AP (change)")
    left.margins(x=0.3)
    left.grid(axis="x", alpha=0.3)
    left.set_ylim(len(rows) - 0.5, -0.5)
    right.set(xlabel="pseudo-labels, hollow before SAM, full after", xlim=(0, 1))
    for metric, (marker, color) in styles.items():
        right.plot([], [], marker, color=color, label=metric)
    right.legend(loc="lower left", fontsize=8)
    right.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _panel(truth: COCO, image_id: int, images: Path, annotations: Sequence[dict]) -> np.ndarray:
    """Draw the image in gray under masks in one vivid color a class: about (PANEL * H / W, PANEL, 3) RGB."""
    image = read_image(images / truth.imgs[image_id]["file_name"], "RGB")
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    order = sorted(truth.cats)
    names = [truth.cats[a["category_id"]]["name"] for a in annotations]
    labels = [f"{name} {a['score']:.2f}" if "score" in a else name for name, a in zip(names, annotations, strict=True)]
    colors = [colorsys.hsv_to_rgb(order.index(a["category_id"]) * 0.618034 % 1, 0.95, 1.0) for a in annotations]
    canvas = Visualizer(gray, scale=PANEL / image.shape[1], instance_mode=ColorMode.IMAGE)
    masks = [truth.annToMask(a) for a in annotations]
    canvas.overlay_instances(masks=masks, labels=labels, assigned_colors=colors, alpha=0.45)
    panel = cv2.resize(canvas.output.get_image(), (PANEL, round(PANEL * image.shape[0] / image.shape[1])))
    return np.pad(panel, ((0, 4), (0, 4), (0, 0)), constant_values=255)


def comparison_picture(
    folders: Mapping[str, Path], json_file: Path, images: Path, path: Path, *, count: int = 6, score: float = 0.5
) -> None:
    """Draw ground truth beside the students' predictions of at least a score, on the first `count` test images.

    `folders` has the OUTPUT_DIR of each training by its title.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
    header = []
    for title in ("ground truth", *folders):
        header.append(np.full((32, PANEL + 4, 3), 255, np.uint8))
        cv2.putText(header[-1], title, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    predictions = []
    for folder in folders.values():
        file = folder / "student" / "inference" / "coco_instances_results.json"
        predictions.append([item for item in json.loads(file.read_text(encoding="utf-8")) if item["score"] >= score])
    rows = [header]
    for image_id in sorted(truth.imgs)[:count]:
        columns = [truth.loadAnns(truth.getAnnIds(imgIds=[image_id], iscrowd=False))]
        columns += [[item for item in items if item["image_id"] == image_id] for items in predictions]
        rows.append([_panel(truth, image_id, images, annotations) for annotations in columns])
    picture = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    write_png(path, picture[:, :, ::-1])
