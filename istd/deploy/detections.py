"""Detections: the connected regions of a probability map, as numbers and as pictures."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from istd.data.images import stretch
from istd.evaluation.regions import find_regions

BOX_COLOR, MASK_COLOR = (0, 220, 255), (0, 0, 255)  # BGR
MARGIN = 4  # pixels between a target and the box drawn around it, which would hide it
COLUMNS = ("file", "frame", "x", "y", "x0", "y0", "x1", "y1", "area", "score")


@dataclass(frozen=True)
class Detection:
    """An 8-connected region of pixels whose probability is above the threshold.

    Attributes:
        centroid: x, y in pixels, mean of the region's pixel indices.
        box: x0, y0, x1, y1 in pixels; the right and lower edges are exclusive.
        area: pixels.
        score: largest probability in the region.
    """

    centroid: tuple[float, float]
    box: tuple[int, int, int, int]
    area: int
    score: float


def find_detections(probability: np.ndarray, threshold: float) -> list[Detection]:
    """Detections of a (H, W) probability map, in the order of their first pixel, row by row; none is an empty list."""
    regions = find_regions(probability > threshold)
    found = zip(regions.centroids, regions.boxes(), regions.areas, regions.peaks(probability), strict=True)
    return [
        Detection((float(x), float(y)), tuple(box.tolist()), int(area), float(score))
        for (y, x), box, area, score in found
    ]


def detection_table(rows: Iterable[tuple[str, int | None, Sequence[Detection]]]) -> str:
    """CSV with a line of COLUMNS for each detection; `frame` is empty for images.

    Args:
        rows: file, frame and detections of each image or frame.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for file, frame, detections in rows:
        for found in detections:
            x, y = (round(value, 3) for value in found.centroid)
            number = "" if frame is None else frame
            writer.writerow([file, number, x, y, *found.box, found.area, round(found.score, 5)])
    return text.getvalue()


def draw_overlay(grey: np.ndarray, mask: np.ndarray, detections: Sequence[Detection]) -> np.ndarray:
    """The image with outlines of the mask, a box around each detection and its score.

    Args:
        grey: (H, W) grey values 0..255, shown as `stretch` does.
        mask: (H, W) bool.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    picture = cv2.cvtColor(stretch(grey).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, MASK_COLOR, 1)
    for found in detections:
        x0, y0, x1, y1 = found.box
        corner, opposite = (x0 - MARGIN, y0 - MARGIN), (x1 + MARGIN - 1, y1 + MARGIN - 1)
        cv2.rectangle(picture, corner, opposite, BOX_COLOR, 1)
        label = (max(corner[0], 0), corner[1] - 3 if corner[1] > 12 else opposite[1] + 12)
        cv2.putText(picture, f"{found.score:.2f}", label, cv2.FONT_HERSHEY_SIMPLEX, 0.4, BOX_COLOR, 1, cv2.LINE_AA)
    return picture
