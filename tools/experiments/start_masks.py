"""Rules for the first mask of a point, and how well their masks agree with true masks."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from d2kit.rng import derive_seed
from istd.data.images import read_infrared, read_mask
from istd.data.points import points_from_mask
from istd.data.scenery import CHARACTERISTICS, CLUTTERS, add_targets, background, sensor
from istd.pseudo_masks.initialize import initialize_mask
from istd.pseudo_masks.regions import (
    FIRST_LEVEL,
    GAINS,
    LAST_LEVEL,
    STEP,
    Window,
    cut_window,
    fit_gain,
    grow_mask,
    grow_region,
    last_level,
)

MAD_TO_SIGMA = 1.4826  # ratio of standard deviation and median absolute deviation of normal values
LEVELS = np.arange(FIRST_LEVEL, LAST_LEVEL - 1e-6, -STEP)
SCENE_SIDE = 192  # pixels


class Sample(NamedTuple):
    """An image (H, W) float32, its points [x, y], and its true mask (H, W) bool."""

    image: np.ndarray
    points: list[list[int]]
    truth: np.ndarray


Level = Callable[[Window], float]


def read_samples(records: Iterable[dict]) -> list[Sample]:
    """Read the images of dataset dicts that have points and a mask."""
    return [
        Sample(read_infrared(record["file_name"]), record["points"], read_mask(record["mask_file"]) > 0)
        for record in records
        if record.get("points") and "mask_file" in record
    ]


def blurred_scenes(count: int, sigma: float, seed: int = 0) -> list[Sample]:
    """Draw synthetic scenes whose optics blur by a Gaussian of `sigma` pixels, besides the camera's 0.4 to 0.7.

    The true masks are those of the targets before the blur. Scenes of different sigma have the same targets.
    """
    samples = []
    for index in range(count):
        rng = np.random.default_rng(derive_seed(seed, "start masks", index))
        scene = background(rng, CLUTTERS[index % len(CLUTTERS)], SCENE_SIDE, SCENE_SIDE)
        characteristic = CHARACTERISTICS[index % len(CHARACTERISTICS)]
        scene, mask = add_targets(rng, scene, characteristic, int(rng.integers(1, 4)))
        if sigma:
            scene = cv2.GaussianBlur(scene, (0, 0), sigma)
        samples.append(Sample(sensor(rng, scene).astype(np.float32), points_from_mask(mask), mask > 0))
    return samples


def windows(sample: Sample) -> list[Window]:
    """Return the window of each point of a sample."""
    return [cut_window(sample.image, x, y, "bright") for x, y in sample.points]


def robust_noise(window: Window) -> float:
    """Return the noise of a window by the median absolute deviation, in gray values."""
    return MAD_TO_SIGMA * float(np.median(np.abs(window.height)))


def set_noise(samples: Sequence[Sample], noise: Callable[[Window], float]) -> float:
    """Return the median of a noise over all points of a set."""
    return float(np.median([noise(window) for sample in samples for window in windows(sample)]))


def rim_level(window: Window, share: float) -> float:
    """Return the lowest level at whose border the mean gradient is at least `share` of that at the steepest level.

    With a share of 1, this is the level at which the border is sharpest.
    """
    gradient = np.hypot(*np.gradient(window.height))
    slopes = []
    for level in LEVELS:
        region = grow_region(window, level).astype(np.uint8)
        rim = (cv2.dilate(region, np.ones((3, 3), np.uint8)) > 0) & (region == 0)
        slopes.append(gradient[rim].mean() if rim.any() else 0.0)
    return float(LEVELS[np.flatnonzero(np.array(slopes) >= share * max(slopes))[-1]])


def level_mask(sample: Sample, level: Level) -> np.ndarray:
    """Return the (H, W) bool mask whose regions grow to the level that a function gives for each window."""
    mask = np.zeros(sample.image.shape, bool)
    for window, (x, y) in zip(windows(sample), sample.points, strict=True):
        if window.contrast > 0:
            mask[window.place] |= grow_region(window, level(window))
        mask[y, x] = True
    return mask


def best_level_mask(sample: Sample) -> np.ndarray:
    """Return the mask whose regions grow to the level with the best IoU, which only the true mask tells."""
    _, targets = cv2.connectedComponents(sample.truth.view(np.uint8), connectivity=8)
    mask = np.zeros(sample.truth.shape, bool)
    for window, (x, y) in zip(windows(sample), sample.points, strict=True):
        target = targets[window.place] == targets[y, x]
        regions = [grow_region(window, level) for level in LEVELS] if window.contrast > 0 else []
        if regions:
            mask[window.place] |= max(regions, key=lambda region: iou([region], [target]))
        mask[y, x] = True
    return mask


def iou(masks: Iterable[np.ndarray], truths: Iterable[np.ndarray]) -> float:
    """Return the IoU over all pixels of pairs of bool masks, in %."""
    counts = np.array([((m & t).sum(), (m | t).sum()) for m, t in zip(masks, truths, strict=True)]).sum(0)
    return 100.0 * float(counts[0] / counts[1])


def rule_ious(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the IoU of the masks of each rule with the true masks of a set, in %."""
    rms = set_noise(samples, lambda window: window.noise)
    mad = set_noise(samples, robust_noise)
    levels: dict[str, Level] = {
        "half of the contrast": lambda window: 0.5,
        "level 0.3": lambda window: 0.3,
        "2.9 / sqrt(contrast), 8 bits": lambda window: float(np.clip(2.9 / np.sqrt(window.contrast), 0.2, 0.55)),
        "sharpest border": lambda window: rim_level(window, 1.0),
        "border at least 0.5 times as sharp": lambda window: rim_level(window, 0.5),
        "border at least 0.6 times as sharp": lambda window: rim_level(window, 0.6),
        "sqrt(noise / contrast), MAD of the set": lambda window: last_level(window.contrast, mad, 1.0),
        "sqrt(noise / contrast), RMS of the window": lambda window: last_level(window.contrast, window.noise, 1.0),
        "sqrt(noise / contrast), RMS of the set": lambda window: last_level(window.contrast, rms, 1.0),
    }
    truths = [sample.truth for sample in samples]
    ious = {"contours": iou([initialize_mask(s.image, s.points)[0] > 0 for s in samples], truths)}
    for name, level in levels.items():
        ious[name] = iou([level_mask(sample, level) for sample in samples], truths)
    ious["best level of the set"] = max(iou([level_mask(s, lambda _, v=v: v) for s in samples], truths) for v in LEVELS)
    ious["best gain of the set"] = max(iou([grown(s, rms, gain) for s in samples], truths) for gain in GAINS)
    ious["best level of each target"] = iou([best_level_mask(sample) for sample in samples], truths)
    return ious


def grown(sample: Sample, noise: float, gain: float) -> np.ndarray:
    """Return the mask of `grow_mask` as (H, W) bool."""
    return grow_mask(sample.image, sample.points, noise=noise, gain=gain)[0] > 0


def calibrated_ious(samples: Sequence[Sample], count: int, draws: int, seed: int = 0) -> list[float]:
    """Return the IoU, in %, of masks whose gain is fitted to `count` random images, on the images left, for each draw.

    Raises:
        ValueError: the set has no more than `count` images.
    """
    if count >= len(samples):
        raise ValueError(f"the gain cannot be fitted to {count} of {len(samples)} images and scored on the others.")
    rng = np.random.default_rng(derive_seed(seed, "calibration", count))
    noise = set_noise(samples, lambda window: window.noise)
    ious = []
    for _ in range(draws):
        order = rng.permutation(len(samples))
        gain = fit_gain([samples[i] for i in order[:count]], noise)
        rest = [samples[i] for i in order[count:]]
        ious.append(iou([grown(sample, noise, gain) for sample in rest], [sample.truth for sample in rest]))
    return ious
