"""Label evolution: the soft pseudo-mask follows the network's probabilities (docs: 'Pseudo-mask evolution', Update).

Frame: (H, W) maps at the image's own size, values in [0, 1].
"""

import cv2
import numpy as np

from istd.pseudo_masks.initialize import Points, check_points

ROUND_UP = 0.5 + 1e-6  # a half goes up, whatever the last bit of a centroid's division is


def evolve_mask(
    mask: np.ndarray,
    probability: np.ndarray,
    *,
    points: Points | None = None,
    decay: float = 0.97,
    neighborhood: int = 33,
    core: int = 3,
    base: float = 0.5,
    gain: float = 0.5,
    area_scale: float = 0.0015,
    region_threshold: float = 0.5,
) -> np.ndarray:
    """One update of a soft pseudo-mask.

    For each 8-connected region of mask > `region_threshold`, with its centroid c rounded to a pixel and `area` in
    pixels: peak = max of p in the `neighborhood` around c; threshold = base * peak + gain * (peak - base * peak) *
    area / (area_scale * H * W); the 8-connected parts of {p > threshold} inside the neighborhood that share a pixel
    with the `core` around c are the new region. On the union of the new regions mask <- (mask + p) / 2, elsewhere
    mask <- decay * mask. Windows are cut at the image's border. From an area of 2 * area_scale * H * W on (with the
    published constants) the threshold is the peak itself, and there is no new region. LESPS is `decay=0.9`, or
    `decay=1.0` for no degeneration.

    Args:
        mask: (H, W) soft mask.
        probability: (H, W) teacher's probability.
        points: [x, y] pixels that stay 1. None, as published: every pixel whose mask is exactly 1 stays 1, which
            includes the whole of a first mask; given: only these, so that a first mask can shrink as well as grow.
        decay: factor of the mask outside the new regions.
        neighborhood, core: side in pixels, odd; base, gain, area_scale: constants of the threshold.

    Returns: (H, W) float32, a new array.

    Raises:
        ValueError: mask and probability differ in shape, or a point is outside.
    """
    mask, probability = _as_pair(mask, probability)
    new, scale = mask * np.float32(decay), area_scale * mask.size
    reach, inner = neighborhood // 2, core // 2
    for x, y, area in _regions(mask, region_threshold):
        x0, y0 = max(0, x - reach), max(0, y - reach)
        window = (slice(y0, y + reach + 1), slice(x0, x + reach + 1))
        p = probability[window]
        threshold = region_peak_threshold(float(p.max()), area, scale, base, gain)
        near = slice(max(0, y - inner - y0), y + inner + 1 - y0), slice(max(0, x - inner - x0), x + inner + 1 - x0)
        grown = _parts_touching(p > np.float32(threshold), near)
        new[window][grown] = (mask[window][grown] + p[grown]) / 2
    keep = _kept_pixels(mask, points)
    new[keep[:, 1], keep[:, 0]] = 1
    return new


def _parts_touching(above: np.ndarray, near: tuple[slice, slice]) -> np.ndarray:
    """The 8-connected parts of a boolean map that have a pixel in `near`, as a boolean map."""
    _, parts = cv2.connectedComponents(above.view(np.uint8), connectivity=8)
    touching = set(parts[near].ravel().tolist()) - {0}
    grown = np.zeros(above.shape, bool)
    for part in touching:
        grown |= parts == part
    return grown


def _regions(mask: np.ndarray, threshold: float) -> list[tuple[int, int, int]]:
    """Centroid x, y (rounded) and area of each 8-connected region of mask > threshold."""
    binary = cv2.compare(mask, threshold, cv2.CMP_GT)
    x, y, width, height = cv2.boundingRect(binary)  # labeling is what costs: only where there is something
    if not width:
        return []
    part = binary[y : y + height, x : x + width]
    _, _, stats, centroids = cv2.connectedComponentsWithStats(part, connectivity=8)
    columns, rows = (centroids[1:] + (x + ROUND_UP, y + ROUND_UP)).astype(int).T
    return list(zip(columns.tolist(), rows.tolist(), stats[1:, cv2.CC_STAT_AREA].tolist(), strict=True))


def region_peak_threshold(peak: float, area: int, scale: float, base: float, gain: float) -> float:
    """Threshold of one region: base * peak + gain * (peak - base * peak) * area / scale."""
    return base * peak + gain * (peak - base * peak) * area / scale


def _as_pair(mask: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mask = np.ascontiguousarray(mask, np.float32)
    probability = np.ascontiguousarray(probability, np.float32)
    if mask.shape != probability.shape or mask.ndim != 2:
        raise ValueError(
            f"the pseudo-mask has shape {mask.shape} and the probability {probability.shape}: both must be (H, W)."
        )
    return mask, probability


def _kept_pixels(mask: np.ndarray, points: Points | None) -> np.ndarray:
    """(N, 2) x, y of the pixels that stay 1."""
    if points is not None:
        return check_points(points, *mask.shape)
    found = cv2.findNonZero(cv2.compare(mask, 1.0, cv2.CMP_EQ))
    return np.zeros((0, 2), int) if found is None else found.reshape(-1, 2)
