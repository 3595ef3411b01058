"""Synthetic scenes are what the tiny SAM is trained and measured on.

Shapes, textures and scenes are none of those of `s4m.data.shapes`: what the tiny SAM knows of that data set it has by
generalization.
"""

import cv2
import numpy as np

SIZE = 128
_LEAST_AREA = 24  # An object has at least this many visible pixels.
_LEAST_VISIBLE = 0.35  # Later objects leave at least this share of an object visible.
_LEAST_CONTRAST = 28.0  # An object's color differs by this many gray levels from the mean of what it covers.
_SUPER = 2  # Shapes are drawn at this multiple and averaged down, so that their edges are smooth.
Rng = np.random.Generator


def _angles(count: int) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, count, endpoint=False)


def _polar(radius: np.ndarray) -> np.ndarray:
    theta = _angles(len(radius))
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1)


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _blob(rng: Rng) -> list[np.ndarray]:
    radius = np.ones(64)
    for k in range(2, 7):
        radius += rng.normal(0, 0.35 / k) * np.cos(k * _angles(64) + rng.uniform(0, 6.28))
    return [_polar(np.clip(radius, 0.3, None)) * [1, rng.uniform(0.5, 1)]]


def _cell(rng: Rng) -> list[np.ndarray]:
    theta = _angles(40)
    radius = 1 + rng.normal(0, 0.07) * np.cos(2 * theta) + rng.normal(0, 0.05) * np.cos(3 * theta + rng.uniform(0, 6))
    return [_polar(radius) * [1, rng.uniform(0.55, 1)]]


def _star(rng: Rng) -> list[np.ndarray]:
    tips = rng.integers(4, 9)
    return [_polar(np.tile([1.0, rng.uniform(0.35, 0.75)], tips))]


def _cross(rng: Rng) -> list[np.ndarray]:
    w = rng.uniform(0.2, 0.45)
    bar = np.array([[-1, -w], [1, -w], [1, w], [-1, w]])
    return [bar, bar[:, ::-1] * [1, rng.uniform(0.5, 1)]]


def _stroke(rng: Rng) -> list[np.ndarray]:
    nodes = rng.uniform(-0.85, 0.85, (rng.integers(3, 6), 2))
    w = rng.uniform(0.12, 0.3)
    parts = [_polar(np.full(16, w)) + node for node in nodes]
    for a, b in zip(nodes[:-1], nodes[1:], strict=True):
        along = (b - a) / (np.linalg.norm(b - a) + 1e-6)
        across = np.array([-along[1], along[0]]) * w
        parts.append(np.stack([a - across, b - across, b + across, a + across]))
    return parts


def _superellipse(rng: Rng) -> list[np.ndarray]:
    circle = _polar(np.ones(64))
    power = 2 / rng.choice([1.2, 2.5, 3, 5, 8])
    return [np.sign(circle) * np.abs(circle) ** power * [1, rng.uniform(0.3, 1)]]


def _shard(rng: Rng) -> list[np.ndarray]:
    points = _polar(rng.uniform(0.55, 1, 12))[rng.permutation(12)[: rng.integers(4, 9)]]
    return [cv2.convexHull(points.astype(np.float32))[:, 0]]


def _ring(rng: Rng) -> list[np.ndarray]:
    outside = _polar(np.ones(48)) * [1, rng.uniform(0.6, 1)]
    return [outside, outside * rng.uniform(0.4, 0.7)]


def _moon(rng: Rng) -> list[np.ndarray]:
    angle = rng.uniform(0, 6.28)
    shadow = _polar(np.ones(48)) * rng.uniform(0.7, 1)
    return [_polar(np.ones(48)), shadow + np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.45, 0.8)]


# Each function draws the polygons (points, 2) of a shape, x and y, of about unit radius around (0, 0).
_DRAWN = (_blob, _cell, _star, _cross, _stroke, _superellipse, _shard, _ring, _moon)
SHAPES = {draw.__name__.removeprefix("_"): draw for draw in _DRAWN}
_HOLLOW = ("ring", "moon")  # The second polygon of these is a hole.


def draw_shape(shape: str, center: np.ndarray, radius: float, rng: Rng) -> np.ndarray:
    """Draw the coverage (SIZE, SIZE) float32 in [0, 1] of one of `SHAPES`; center (x, y) and radius are in pixels."""
    canvas = np.zeros((SIZE * _SUPER, SIZE * _SUPER), np.uint8)
    polygons = SHAPES[shape](rng)
    angle = 0.0 if shape in ("stroke", *_HOLLOW) else rng.uniform(0, 6.28)
    for index, polygon in enumerate(polygons):
        pixels = (_rotate(polygon, angle) * radius + center) * _SUPER
        value = 0 if index and shape in _HOLLOW else 255
        cv2.fillPoly(canvas, [np.round(pixels * 16).astype(np.int32)], value, shift=4)
    return cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _noise_bank(rng: Rng) -> np.ndarray:
    """Draw noise fields (48, 2 * SIZE, 2 * SIZE) with power-law spectra and unit variance."""
    side = 2 * SIZE
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    fields = []
    for slope in rng.uniform(0.3, 2.4, 48):
        field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * frequency**-slope)
        fields.append((field - field.mean()) / field.std())
    return np.stack(fields).astype(np.float32)


class SceneMaker:
    """A scene maker draws scenes; the same seed gives the same scenes in the same order."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.noise = _noise_bank(self.rng)
        self.grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).astype(np.float32)

    def _field(self) -> np.ndarray:
        y, x = self.rng.integers(0, SIZE, 2)
        return self.noise[self.rng.integers(len(self.noise)), y : y + SIZE, x : x + SIZE]

    def _ramp(self) -> np.ndarray:
        turn = self.rng.uniform(0, 6.28)
        return self.grid @ np.array([np.cos(turn), np.sin(turn)], np.float32)

    def pattern(self) -> np.ndarray:
        """Draw one texture (SIZE, SIZE) of about unit variance."""
        rng = self.rng
        name = rng.choice(["flat", "noise", "gradient", "stripes", "hatch", "dots", "patches"])
        if name == "flat":
            return np.zeros((SIZE, SIZE), np.float32)
        if name == "noise":
            return self._field()
        if name == "gradient":
            ramp = self._ramp() if rng.random() < 0.6 else np.hypot(*(self.grid - rng.uniform(0, SIZE, 2)).T).T
            return (ramp - ramp.mean()) / (ramp.std() + 1e-6)
        if name == "stripes":
            return 1.4 * np.sin(self._ramp() * 6.28 / rng.uniform(3, 24) + rng.uniform(0, 2) * self._field())
        if name == "hatch":
            period = rng.uniform(4, 20)
            return np.sin(self._ramp() * 6.28 / period) + np.sin(self._ramp() * 6.28 / period)
        if name == "dots":
            period = rng.uniform(5, 18)
            waves = np.cos(_rotate(self.grid.reshape(-1, 2), rng.uniform(0, 3)) * 6.28 / period).sum(1)
            return np.where(waves.reshape(SIZE, SIZE) > rng.uniform(0.5, 1.4), 1.5, -0.5)
        levels = rng.integers(2, 5)
        return np.floor(np.clip(self._field() * 0.5 + 0.5, 0, 0.999) * levels) / levels * 3 - 1.5

    def texture(self, base: np.ndarray, strength: float) -> np.ndarray:
        """Draw colors (SIZE, SIZE, 3) around `base` (3,) in 0..255, with a pattern of the given strength."""
        tint = self.rng.uniform(0.4, 1, 3) * self.rng.choice([-1, 1])
        return base + strength * self.pattern()[..., None] * tint

    def _paint(self, image: np.ndarray, alpha: np.ndarray, color: np.ndarray, strength: float) -> np.ndarray:
        rng = self.rng
        if rng.random() < 0.2:
            dx, dy = rng.uniform(-5, 5, 2)
            moved = cv2.warpAffine(alpha, np.float32([[1, 0, dx], [0, 1, dy]]), (SIZE, SIZE))
            image = image * (1 - rng.uniform(0.2, 0.6) * cv2.GaussianBlur(moved, (0, 0), 1.5)[..., None])
        paint = self.texture(color, strength)
        if rng.random() < 0.25:
            inside = cv2.erode(alpha, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 3)))
            paint = paint + (alpha - inside)[..., None] * rng.uniform(-90, 90)
        return image * (1 - alpha[..., None]) + paint * alpha[..., None]

    def _finish(self, image: np.ndarray) -> np.ndarray:
        rng = self.rng
        if rng.random() < 0.3:
            ramp = self._ramp()
            image = image * (1 + rng.uniform(0, 0.4) * (ramp - ramp.mean()) / SIZE)[..., None]
        if rng.random() < 0.3:
            image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(0.4, 1.2))
        if rng.random() < 0.2:
            image = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
        image = image + rng.normal(0, rng.choice([0, 2, 5, 10]), image.shape)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _objects(self, base: np.ndarray) -> tuple[list[tuple[str, float, np.ndarray, float]], bool]:
        """Return (shape, radius, color, texture strength) of each object of a scene, and whether all are cells."""
        rng = self.rng
        if rng.random() < 0.25:
            color = np.clip(base + rng.choice([-1, 1]) * rng.uniform(25, 120, 3), 0, 255)
            typical, strength = rng.uniform(5, 14), rng.uniform(0, 15)
            count = int(rng.integers(5, 22))
            radii = typical * rng.uniform(0.7, 1.4, count)
            return [("cell", r, color + rng.normal(0, 12), strength) for r in radii], True
        count = int(rng.integers(2, 11))
        largest = 48 if count < 6 else 32
        objects = []
        for _ in range(count):
            radius = np.exp(rng.uniform(np.log(7), np.log(largest)))
            near = rng.random() < 0.25
            color = base + rng.uniform(-60, 60, 3) if near else rng.uniform(0, 255, 3)
            objects.append((str(rng.choice(list(SHAPES))), radius, color, rng.choice([4, 10, 20, 40])))
        return objects, False

    def scene(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw an image (SIZE, SIZE, 3) uint8 RGB and labels (SIZE, SIZE) uint8: 0 background, k the k-th object.

        Objects occlude those drawn before them, and labels show what is visible. An object that would hide most of
        another is left out.
        """
        rng = self.rng
        base = rng.uniform(0, 255, 3) if rng.random() < 0.7 else np.repeat(rng.uniform(0, 255), 3)
        objects, cells = self._objects(base)
        image = self.texture(base, rng.uniform(0, 8) if cells else rng.choice([4, 10, 20, 40]))
        labels = np.zeros((SIZE, SIZE), np.uint8)
        areas = np.zeros(len(objects) + 1)
        for index, (shape, radius, color, strength) in enumerate(objects, start=1):
            alpha = draw_shape(shape, rng.uniform(0, SIZE, 2), radius, rng)
            mask = alpha > 0.5
            if mask.sum() < _LEAST_AREA or (cells and (mask & (labels > 0)).sum() > 0.05 * mask.sum()):
                continue
            left = np.bincount(labels[~mask], minlength=len(areas))
            if (left < np.maximum(_LEAST_AREA, _LEAST_VISIBLE * areas))[areas > 0].any():
                continue
            color = np.clip(color, 0, 255)
            while np.linalg.norm(color - image[mask].mean(0)) < _LEAST_CONTRAST:
                color = rng.uniform(0, 255, 3)
            image = self._paint(image, alpha, color, strength)
            labels[mask] = index
            areas[index] = mask.sum()
        return self._finish(image), labels


def make_scenes(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw scenes with an object or more: images (count, SIZE, SIZE, 3) and labels (count, SIZE, SIZE), uint8."""
    maker = SceneMaker(seed)
    scenes = []
    while len(scenes) < count:
        image, labels = maker.scene()
        if labels.any():
            scenes.append((image, labels))
    return tuple(map(np.stack, zip(*scenes, strict=True)))
