"""The picture of label evolution shows versions of pseudo-masks beside the image and the truth."""

import os
from collections.abc import Sequence
from itertools import zip_longest

import cv2
import numpy as np

from istd.data.images import read_infrared, read_mask, stretch
from istd.pseudo_masks.state import PseudoMasks, saved_versions

HEADER = 22  # The column titles are this many pixels high.


def spread(items: Sequence, count: int) -> list:
    """Choose at most `count` of the items, evenly spread, with the first and the last."""
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, min(count, len(items)))]


def choose_records(records: Sequence[dict], count: int) -> list[dict]:
    """Choose at most `count` images with points, one of each characteristic in turn."""
    groups: dict[str, list[dict]] = {}
    for record in records:
        if record.get("points"):
            groups.setdefault(record.get("characteristic", ""), []).append(record)
    return [record for turn in zip_longest(*groups.values()) for record in turn if record][:count]


def evolution_picture(
    folder: str | os.PathLike, records: Sequence[dict], *, rows=6, versions=7, side=48, zoom=4
) -> np.ndarray:
    """Draw windows of `side` pixels around the first targets of `rows` images: image, truth, and versions of the mask.

    Args:
        folder: OUTPUT_DIR/pseudo_masks of a training.
        records: dataset dicts of its images.

    Returns:
        (H, W) uint8, each pixel `zoom` times as large; gray values of masks are 255 times the soft mask. A version in
        which the image is not in the pool yet has a frame.
    """
    snapshots = [PseudoMasks.read(path) for path in spread(saved_versions(folder), versions)]
    names = ["image", "truth", *(f"epoch {masks.epoch}" for masks in snapshots)]
    header = np.full((HEADER, len(names) * side * zoom), 255, np.uint8)
    for column, name in enumerate(names):
        place = (column * side * zoom + 6, HEADER - 7)
        cv2.putText(header, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 0, 1, cv2.LINE_AA)
    lines = [_row(record, snapshots, side, zoom) for record in choose_records(records, rows)]
    return np.concatenate([header, *lines])


def _row(record: dict, snapshots: Sequence[PseudoMasks], side: int, zoom: int) -> np.ndarray:
    gray = read_infrared(record["file_name"])
    truth = read_mask(record["mask_file"]) * 255.0 if "mask_file" in record else np.zeros_like(gray)
    images = [stretch(gray), truth, *(masks[record["image_id"]] * 255 for masks in snapshots)]
    panels = [_window(image, record["points"][0], side, zoom) for image in images]
    for panel, masks in zip(panels[2:], snapshots, strict=True):
        if record["image_id"] not in masks.pool:
            cv2.rectangle(panel, (3, 3), (side * zoom - 5, side * zoom - 5), 160, 2)
    return np.concatenate(panels, axis=1)


def _window(image: np.ndarray, center: Sequence[int], side: int, zoom: int) -> np.ndarray:
    """Enlarge the window around [x, y], which is moved into the image and black outside of it, and give it an edge."""
    x0, y0 = (max(0, min(c - side // 2, length - side)) for c, length in zip(center, image.shape[::-1], strict=True))
    part = np.rint(image[y0 : y0 + side, x0 : x0 + side]).astype(np.uint8)
    part = np.pad(part, [(0, side - length) for length in part.shape])
    out = cv2.resize(part, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    out[-1] = 96
    out[:, -1] = 96
    return out
