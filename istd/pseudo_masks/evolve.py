"""Label evolution: the soft pseudo-mask follows the network's probabilities (docs: 'Pseudo-mask evolution', Update).

Frame: (H, W) maps at the image's own size, values in [0, 1].
"""

import cv2
import numpy as np

from istd.pseudo_masks.initialize import Points, check_points

NEIGHBORHOOD = 33
CORE = 3
AREA_SCALE = 0.0015
ROUND_UP = 0.5 + 1e-6  # A half rounds up, whatever the last bit of the centroid is.


def evolve_mask(
    mask: np.ndarray,
    probability: np.ndarray,
    *,
    points: Points | None = None,
    decay: float = 0.97,
    neighborhood: int = NEIGHBORHOOD,
    core: int = CORE,
    base: float = 0.5,
    gain: float = 0.5,
    area_scale: float = AREA_SCALE,
    region_threshold: float = 0.5,
) -> np.ndarray:
    """Return a soft pseudo-mask after one update.

    Each 8-connected region of mask > `region_threshold` has a centroid c, rounded to a pixel, and an area in pixels:
    1. peak = the maximum of p in the `neighborhood` around c, which is cut at the image's border;
    2. threshold = base * peak + gain * (peak - base * peak) * area / (area_scale * H * W);
    3. the new region = the 8-connected parts of {p > threshold} that share a pixel with the `core` around c.
    On the union of the new regions mask <- (mask + p) / 2, elsewhere mask <- decay * mask. A region of at least
    2 * area_scale * H * W pixels (with the published constants) has its peak as threshold, so it only decays. LESPS
    uses `decay=0.9`, or `decay=1.0` for no degeneration.

    Example: in 64x64 pixels, area_scale * H * W is 6.1. A region of one pixel with a peak of 0.6 has the threshold
    0.3 + 0.5 * 0.3 / 6.1 = 0.32: neighbors above 0.32 join, and a joining pixel of mask 0 gets 0.6 / 2 = 0.3.

    Args:
        mask: (H, W) soft mask.
        probability: (H, W) teacher's probability p.
        points: [x, y] pixels that stay 1, so that a first mask can shrink as well as grow; None, as published, keeps
            every pixel whose mask is exactly 1, which includes the whole of a first mask.
        decay: factor of the mask outside the new regions.
        neighborhood, core: sides in pixels, odd.
        base, gain, area_scale: constants of the threshold.

    Returns:
        (H, W) float32, a new array.

    Raises:
        ValueError: mask and probability differ in shape, or a point is outside.
    """
    mask = np.ascontiguousarray(mask, np.float32)
    probability = np.ascontiguousarray(probability, np.float32)
    if mask.shape != probability.shape or mask.ndim != 2:
        raise ValueError(
            f"the pseudo-mask has shape {mask.shape} and the probability {probability.shape}: both must be (H, W)."
        )
    new = mask * np.float32(decay)
    scale = area_scale * mask.size
    reach = neighborhood // 2
    inner = core // 2
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


def constants_for(scale: float) -> dict[str, float]:
    """Return the arguments of `evolve_mask` that grow with targets `scale` times as large as the published ones."""
    if scale == 1:
        return {}
    return {
        "neighborhood": 2 * round(NEIGHBORHOOD // 2 * scale) + 1,
        "core": 2 * round(CORE // 2 * scale) + 1,
        "area_scale": AREA_SCALE * scale**2,
    }


def _parts_touching(above: np.ndarray, near: tuple[slice, slice]) -> np.ndarray:
    """Return the 8-connected parts of a boolean map that have a pixel in `near`, as a boolean map."""
    _, parts = cv2.connectedComponents(above.view(np.uint8), connectivity=8)
    return above & np.isin(parts, parts[near])


def _regions(mask: np.ndarray, threshold: float) -> list[tuple[int, int, int]]:
    """Return the rounded centroid x, y and the area of each 8-connected region of mask > threshold."""
    binary = cv2.compare(mask, threshold, cv2.CMP_GT)
    x, y, width, height = cv2.boundingRect(binary)  # Labeling is slow, so only the occupied part is labeled.
    if not width:
        return []
    part = binary[y : y + height, x : x + width]
    _, _, stats, centroids = cv2.connectedComponentsWithStats(part, connectivity=8)
    columns, rows = (centroids[1:] + (x + ROUND_UP, y + ROUND_UP)).astype(int).T
    return list(zip(columns.tolist(), rows.tolist(), stats[1:, cv2.CC_STAT_AREA].tolist(), strict=True))


def region_peak_threshold(peak: float, area: int, scale: float, base: float, gain: float) -> float:
    """Return the threshold of one region: base * peak + gain * (peak - base * peak) * area / scale."""
    return base * peak + gain * (peak - base * peak) * area / scale


def _kept_pixels(mask: np.ndarray, points: Points | None) -> np.ndarray:
    """Return x, y of the pixels that stay 1, (N, 2)."""
    if points is not None:
        return check_points(points, *mask.shape)
    ones = cv2.findNonZero(cv2.compare(mask, 1.0, cv2.CMP_EQ))
    return np.zeros((0, 2), int) if ones is None else ones.reshape(-1, 2)
