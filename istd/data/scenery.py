"""Random infrared backgrounds and small targets as (H, W) float32 arrays of gray values 0..255."""

import cv2
import numpy as np

CLUTTERS = ("cloud", "sea", "ground")
CHARACTERISTICS = ("salient", "filamentary", "faint", "camouflaged")
Random = np.random.Generator


def background(rng: Random, clutter: str, height: int, width: int) -> np.ndarray:
    """Draw a background with one of CLUTTERS, before the sensor."""
    return {"cloud": _cloud, "sea": _sea, "ground": _ground}[clutter](rng, height, width)


def sensor(rng: Random, scene: np.ndarray) -> np.ndarray:
    """Simulate a camera by optical blur, vignetting, stripes, noise and 8 bits; returns (H, W) uint8."""
    height, width = scene.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.4, 0.7)) * (1 - rng.uniform(0, 0.12) * (x**2 + y**2) / 2)
    image = image + rng.normal(0, rng.uniform(0, 0.8), (1, width)) + rng.normal(0, rng.uniform(0.8, 2.5), scene.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def add_targets(rng: Random, scene: np.ndarray, characteristic: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Add `count` targets with one of CHARACTERISTICS, or fewer if there is no room.

    Returns:
        scene: (H, W) float32 scene with the targets.
        mask: (H, W) uint8 of 0 and 1.
    """
    height, width = scene.shape
    mask = np.zeros(scene.shape, np.uint8)
    clutter = _local_std(scene)
    centers: list[tuple[float, float]] = []
    for _ in range(count):
        center = _place(rng, clutter, characteristic, centers)
        if center is None:
            break
        centers.append(center)
        x, y = int(center[0]), int(center[1])
        profile = _profile(rng, characteristic, height, width, *center)
        strength = _contrast(rng, characteristic, float(clutter[y, x]))
        level = scene[profile > 0.5].mean() if (profile > 0.5).any() else scene[y, x]
        # A hot body hides the background, so its profile blends toward its own level.
        scene = scene * (1 - profile) + np.maximum(scene, level + strength) * profile
        mask |= (profile > 0.5).astype(np.uint8)
        mask[y, x] = 1
    return scene.astype(np.float32), mask


def fractal(rng: Random, height: int, width: int, slope: float, stretch: float = 1.0) -> np.ndarray:
    """Draw noise of power spectrum f^-slope, mean 0 and standard deviation 1; `stretch` > 1 widens it horizontally."""
    fy = np.fft.fftfreq(height)[:, None]
    fx = np.fft.rfftfreq(width)[None] * stretch
    radius = np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    spectrum = np.fft.rfft2(rng.normal(size=(height, width))) * radius ** (-slope / 2)
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


def _smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _cloud(rng: Random, height: int, width: int) -> np.ndarray:
    sky = rng.uniform(40, 90) + rng.uniform(0, 40) * np.linspace(0, 1, height)[:, None]
    shape = fractal(rng, height, width, rng.uniform(3.0, 4.0), rng.uniform(1.0, 1.7))
    cover = _smoothstep(shape, rng.uniform(-0.6, 0.4), rng.uniform(0.8, 1.6))
    wisps = fractal(rng, height, width, 2.2)
    return (sky + rng.uniform(30, 80) * cover * (1 + 0.12 * wisps) + 2 * wisps).astype(np.float32)


def _sea(rng: Random, height: int, width: int) -> np.ndarray:
    horizon = int(rng.uniform(0.0, 0.45) * height)
    rows = np.arange(height)
    sky = rng.uniform(60, 120) + 15 * fractal(rng, height, width, 3.0, 2.0) * rng.uniform(0.2, 1)
    waves = fractal(rng, height, width, rng.uniform(1.6, 2.4), 3.5)
    depth = np.clip((rows - horizon) / max(1, height - horizon), 0, 1)[:, None]  # 0 at the horizon, 1 at the bottom
    sea = rng.uniform(35, 80) + rng.uniform(6, 16) * (0.4 + depth) * waves
    middle, spread = rng.uniform(0, width), rng.uniform(0.08, 0.25) * width
    band = np.exp(-(((np.arange(width) - middle) / spread) ** 2))[None]
    glint = np.clip(fractal(rng, height, width, 0.8, 2.5) - rng.uniform(1.4, 2.2), 0, None)
    sea = sea + rng.uniform(10, 45) * band * glint + 15 * band
    water = _smoothstep(rows.astype(np.float32), horizon - 1, horizon + 1)[:, None]
    return np.clip(sky * (1 - water) + sea * water, 0, 255).astype(np.float32)


def _ground(rng: Random, height: int, width: int) -> np.ndarray:
    cells = cv2.resize(rng.uniform(-1, 1, (5, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    scene = rng.uniform(60, 110) + rng.uniform(10, 25) * np.round(cells * 2) / 2
    scene = scene + rng.uniform(4, 10) * fractal(rng, height, width, rng.uniform(1.2, 2.0))
    scene = np.ascontiguousarray(scene, np.float32)
    for _ in range(int(rng.integers(1, 4))):  # These are roads.
        ends = rng.uniform(-0.2, 1.2, 4) * (width, height, width, height)
        start, end = (tuple(int(v) for v in part) for part in (ends[:2], ends[2:]))
        cv2.line(scene, start, end, float(rng.uniform(40, 150)), int(rng.integers(2, 6)), cv2.LINE_AA)
    for _ in range(int(rng.integers(2, 9))):  # These are buildings with a warm roof edge or a window.
        size = rng.uniform(8, 36, 2)
        corners = cv2.boxPoints(((rng.uniform(0, width), rng.uniform(0, height)), tuple(size), rng.uniform(0, 90)))
        level = float(rng.uniform(50, 170))
        cv2.fillConvexPoly(scene, corners.astype(np.int32), level, cv2.LINE_AA)
        cv2.polylines(scene, [corners[:3].astype(np.int32)], False, level + float(rng.uniform(5, 25)), 1, cv2.LINE_AA)
    return scene + rng.uniform(1, 3) * fractal(rng, height, width, 1.0)


def _local_std(scene: np.ndarray, side: int = 15) -> np.ndarray:
    mean = cv2.blur(scene, (side, side))
    return np.sqrt(np.maximum(cv2.blur(scene * scene, (side, side)) - mean * mean, 0))


def _place(
    rng: Random, clutter: np.ndarray, characteristic: str, centers: list, margin: int = 7, distance: float = 24
) -> tuple[float, float] | None:
    """Draw x, y of a target, a camouflaged one amid clutter and a faint one away from it; None if there is no room."""
    height, width = clutter.shape
    candidates = rng.uniform((margin, margin), (width - margin, height - margin), (40, 2))
    free = [p for p in candidates if all(np.hypot(p[0] - q[0], p[1] - q[1]) >= distance for q in centers)]
    if not free:
        return None
    by_clutter = sorted(free, key=lambda p: clutter[int(p[1]), int(p[0])])
    rank = {"camouflaged": 0.9, "faint": 0.2}.get(characteristic, rng.uniform(0, 1))
    x, y = by_clutter[int(rank * (len(by_clutter) - 1))]
    return float(x), float(y)


def _contrast(rng: Random, characteristic: str, clutter: float) -> float:
    """Draw the target's gray values above its surroundings."""
    low, high, minimum, maximum = {
        "salient": (4.0, 8.0, 80, 150),
        "filamentary": (3.0, 6.0, 40, 100),
        "faint": (1.8, 3.5, 14, 30),
        "camouflaged": (1.5, 2.5, 24, 60),
    }[characteristic]
    return float(np.clip(rng.uniform(low, high) * clutter, minimum, maximum) * rng.uniform(0.9, 1.1))


def _profile(rng: Random, characteristic: str, height: int, width: int, x: float, y: float) -> np.ndarray:
    """Draw (H, W) in [0, 1], the share of each pixel that the target covers; its border is at 0.5."""
    long, short = {
        "salient": (rng.uniform(1.8, 4.0), rng.uniform(1.5, 3.0)),
        "filamentary": (rng.uniform(5.0, 11.0), rng.uniform(0.8, 1.3)),
        "faint": (rng.uniform(1.3, 2.6), rng.uniform(1.2, 2.0)),
        "camouflaged": (rng.uniform(1.8, 3.5), rng.uniform(1.5, 2.5)),
    }[characteristic]
    angle = rng.uniform(0, np.pi)
    bend = rng.uniform(-0.03, 0.03) if characteristic == "filamentary" else 0.0
    columns = np.arange(width) - int(x)
    rows = np.arange(height)[:, None] - int(y)
    u = columns * np.cos(angle) + rows * np.sin(angle)
    v = -columns * np.sin(angle) + rows * np.cos(angle) + bend * u * u
    distance = (np.sqrt((u / long) ** 2 + (v / short) ** 2 + 1e-12) - 1) * short  # in pixels, outside > 0
    return (1 / (1 + np.exp(np.clip(distance * 5.0, -30, 30)))).astype(np.float32)
