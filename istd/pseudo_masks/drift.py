"""How far pseudo-masks moved between two versions of the store."""

from collections.abc import Iterable

import numpy as np


def mask_drift(old: np.ndarray, new: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Compare two soft masks (H, W) at `threshold`.

    Returns:
        area_before, area_after: pixels above the threshold.
        iou: of the two regions; 1 when both are empty.
    """
    before, after = old > threshold, new > threshold
    union = int((before | after).sum())
    iou = float((before & after).sum() / union) if union else 1.0
    return {"area_before": int(before.sum()), "area_after": int(after.sum()), "iou": round(iou, 6)}


def summarise(images: Iterable[dict[str, float]]) -> dict[str, float]:
    """Summary over the images of one update; zeros and an IoU of 1 when none was updated."""
    images = list(images)
    before = sum(image["area_before"] for image in images)
    after = sum(image["area_after"] for image in images)
    ious = [image["iou"] for image in images] or [1.0]
    return {
        "images": len(images),
        "area_before": before,
        "area_after": after,
        "area_change": round((after - before) / before, 6) if before else 0.0,
        "iou_mean": round(float(np.mean(ious)), 6),
        "iou_min": round(float(np.min(ious)), 6),
        "unchanged": sum(image["iou"] == 1.0 for image in images),
    }
