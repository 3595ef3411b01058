"""Plain version of label evolution, for the benchmark and the tests: full-image passes for every region."""

import cv2
import numpy as np
from skimage import measure

from istd.pseudo_masks.evolve import ROUND_UP, region_peak_threshold


def evolve_mask_plain(
    mask: np.ndarray,
    probability: np.ndarray,
    *,
    decay: float = 0.97,
    neighbourhood: int = 33,
    core: int = 3,
    base: float = 0.5,
    gain: float = 0.5,
    area_scale: float = 0.0015,
    region_threshold: float = 0.5,
) -> np.ndarray:
    """Same answer as `evolve_mask` without points, by one full-image dilation and component pass per region."""
    mask, probability = np.asarray(mask, np.float32), np.asarray(probability, np.float32)
    height, width = mask.shape
    grow = np.zeros(mask.shape, bool)
    for region in measure.regionprops(measure.label(mask > region_threshold, connectivity=2)):
        seed = np.zeros(mask.shape, np.uint8)
        y, x = (int(centre + ROUND_UP) for centre in region.centroid)
        seed[y, x] = 1
        around = cv2.dilate(seed, np.ones((neighbourhood, neighbourhood), np.uint8)) > 0
        peak = float(probability[around].max())
        threshold = region_peak_threshold(peak, int(region.area), area_scale * height * width, base, gain)
        parts = measure.label((probability > np.float32(threshold)) & around, connectivity=2)
        reach = core // 2
        touching = np.unique(parts[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1])
        grow |= np.isin(parts, touching[touching > 0])
    new = np.where(grow, (mask + probability) / 2, mask * np.float32(decay)).astype(np.float32)
    new[mask == 1] = 1
    return new
