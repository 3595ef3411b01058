"""Detections, which are the connected regions of a probability map, their table and their drawing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from istd.data.images import stretch
from istd.evaluation.regions import find_regions

BOX_COLOR = (0, 220, 255)  # BGR
MASK_COLOR = (0, 0, 255)  # BGR
MARGIN = 4  # pixels between a target and the box around it, which would otherwise hide the target
COLUMNS = ("file", "frame", "x", "y", "x0", "y0", "x1", "y1", "area", "score")


@dataclass(frozen=True)
class Detection:
    """An 8-connected region of pixels whose probability is above the threshold.

    Attributes:
        centroid: x, y in pixels, which is the mean of the region's pixel indices.
        box: x0, y0, x1, y1 in pixels; the right and lower edges are exclusive.
        area: number of pixels.
        score: largest probability in the region.
    """

    centroid: tuple[float, float]
    box: tuple[int, int, int, int]
    area: int
    score: float


def find_detections(probability: np.ndarray, threshold: float) -> list[Detection]:
    """Return the detections of an (H, W) probability map, in the order of their first pixel, row by row."""
    regions = find_regions(probability > threshold)
    columns = (regions.centroids, regions.boxes(), regions.areas, regions.peaks(probability))
    return [
        Detection((x, y), tuple(box), area, score)
        for (y, x), box, area, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def table_rows(detections: Iterable[Detection]) -> list[list[float]]:
    """Return the values of COLUMNS but file and frame for each detection."""
    return [
        [*(round(value, 3) for value in one.centroid), *one.box, one.area, round(one.score, 5)] for one in detections
    ]


def draw_overlay(gray: np.ndarray, mask: np.ndarray, detections: Sequence[Detection]) -> np.ndarray:
    """Draw the outlines of the mask, a box around each detection and its score on an image.

    Args:
        gray: (H, W) gray values 0..255, whose contrast is enhanced by `stretch`.
        mask: (H, W) bool.
        detections: detections of the image.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    picture = cv2.cvtColor(stretch(gray).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, MASK_COLOR, 1)
    for detection in detections:
        x0, y0, x1, y1 = detection.box
        left, top, right, bottom = x0 - MARGIN, y0 - MARGIN, x1 + MARGIN - 1, y1 + MARGIN - 1
        cv2.rectangle(picture, (left, top), (right, bottom), BOX_COLOR, 1)
        origin = (max(left, 0), top - 3 if top > 12 else bottom + 12)  # Text above a box at the border is cut off.
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, f"{detection.score:.2f}", origin, font, 0.4, BOX_COLOR, 1, cv2.LINE_AA)
    return picture
