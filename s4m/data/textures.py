"""Random textures of two colors for synthetic images."""

from collections.abc import Callable

import cv2
import numpy as np

Size = tuple[int, int]


def _coordinates(size: Size, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel coordinates (H, W) along two orthogonal axes of random direction and origin."""
    angle = rng.uniform(0, 2 * np.pi)
    offset = rng.uniform(0, max(size), 2)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    cos = np.float32(np.cos(angle))
    sin = np.float32(np.sin(angle))
    return x * cos + y * sin + np.float32(offset[0]), y * cos - x * sin + np.float32(offset[1])


def _period(size: Size, rng: np.random.Generator) -> float:
    return rng.uniform(0.04, 0.2) * min(size)


def _flat(size: Size, rng: np.random.Generator) -> np.ndarray:
    return np.full(size, rng.uniform(0, 1), np.float32)


def _gradient(size: Size, rng: np.random.Generator) -> np.ndarray:
    along, _ = _coordinates(size, rng)
    return (along - along.min()) / max(float(np.ptp(along)), 1.0)


def _stripes(size: Size, rng: np.random.Generator) -> np.ndarray:
    along, _ = _coordinates(size, rng)
    return (np.mod(along / _period(size, rng), 1.0) < rng.uniform(0.3, 0.7)).astype(np.float32)


def _checker(size: Size, rng: np.random.Generator) -> np.ndarray:
    along, across = _coordinates(size, rng)
    period = _period(size, rng)
    return ((np.floor(along / period) + np.floor(across / period)) % 2).astype(np.float32)


def _dots(size: Size, rng: np.random.Generator) -> np.ndarray:
    along, across = _coordinates(size, rng)
    period = _period(size, rng)
    distance = np.hypot(np.mod(along / period, 1.0) - 0.5, np.mod(across / period, 1.0) - 0.5)
    return (distance < rng.uniform(0.2, 0.4)).astype(np.float32)


def _rings(size: Size, rng: np.random.Generator) -> np.ndarray:
    center = rng.uniform(0, 1, 2) * size
    y, x = np.mgrid[: size[0], : size[1]]
    waves = np.hypot(x - center[1], y - center[0]) * (2 * np.pi / _period(size, rng))
    return (0.5 + 0.5 * np.sin(waves)).astype(np.float32)


def _noise(size: Size, rng: np.random.Generator) -> np.ndarray:
    total = np.zeros(size, np.float32)
    for octave in range(4):
        cells = rng.random((2 + 2**octave * 2, 2 + 2**octave * 2), dtype=np.float32)
        total += cv2.resize(cells, size[::-1], interpolation=cv2.INTER_CUBIC) / 2**octave
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def _marble(size: Size, rng: np.random.Generator) -> np.ndarray:
    along, _ = _coordinates(size, rng)
    return (0.5 + 0.5 * np.sin(along * (2 * np.pi / _period(size, rng)) + 8 * _noise(size, rng))).astype(np.float32)


TEXTURES: dict[str, Callable[[Size, np.random.Generator], np.ndarray]] = {
    "flat": _flat,
    "gradient": _gradient,
    "stripes": _stripes,
    "checker": _checker,
    "dots": _dots,
    "rings": _rings,
    "noise": _noise,
    "marble": _marble,
}


def paint(name: str, size: Size, color: np.ndarray, contrast: float, rng: np.random.Generator) -> np.ndarray:
    """Paint an image of one texture that varies between two colors around `color`.

    Args:
        name: key of TEXTURES.
        size: (H, W).
        color: (3,) mean of the two colors, 0 to 255.
        contrast: distance of the two colors in gray levels.

    Returns:
        (H, W, 3) float32, not clipped.
    """
    direction = rng.normal(size=3)
    step = (direction / np.linalg.norm(direction) * contrast).astype(np.float32)
    blend = TEXTURES[name](size, rng)[..., None] - np.float32(0.5)
    return np.asarray(color, np.float32) + blend * step
