"""A synthetic instance segmentation data set in COCO format: shapes with random textures that occlude each other."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from d2kit.coco_masks import encode_mask
from d2kit.files import atomic_write, write_png
from s4m.data.textures import TEXTURES, paint

_SUBPIXEL_BITS = 4
_MIN_COLOR_DISTANCE = 40.0  # gray levels between an object's mean color and what it covers
_MIN_CHANNEL_LEAD = 40.0  # gray levels between a tinted object's strongest color channel and the others
_PLACEMENT_TRIES = 12


def _regular(corners: int) -> np.ndarray:
    angles = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _stretched(outline: np.ndarray, ratio: float) -> np.ndarray:
    return outline * [np.sqrt(ratio), 1 / np.sqrt(ratio)]


def _polar(radius: np.ndarray) -> np.ndarray:
    return _regular(len(radius)) * radius[:, None]


def _blob(rng: np.random.Generator) -> np.ndarray:
    angles = np.arange(64) * (2 * np.pi / 64)
    waves = [rng.uniform(-0.5, 0.5) / k * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(2, 6)]
    return _polar(np.maximum(1 + np.sum(waves, axis=0), 0.25))


def _crescent(rng: np.random.Generator) -> np.ndarray:
    angles = np.linspace(-0.75 * np.pi, 0.75 * np.pi, 40)
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([arc, arc[::-1] * [rng.uniform(0.1, 0.4), 0.8] - [0.3, 0]])


_CROSS = np.array([[1, 3], [1, 1], [3, 1], [3, -1], [1, -1], [1, -3]], float)
_ARROW = np.array([[3, 0], [0, 2.4], [0, 1], [-3, 1], [-3, -1], [0, -1], [0, -2.4]], float)
_CORNER = np.array([[0, 0], [3, 0], [3, 1], [1, 1], [1, 3], [0, 3]], float) - 1

# Outlines (points, 2), x and y in any unit, before the random rotation and scale.
OUTLINES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "circle": lambda rng: _regular(48),
    "square": lambda rng: _stretched(_regular(4) @ _rotation(np.pi / 4), rng.uniform(0.9, 1.1)),
    "triangle": lambda rng: _stretched(_regular(3), rng.uniform(0.8, 1.25)),
    "hexagon": lambda rng: _stretched(_regular(6), rng.uniform(0.9, 1.1)),
    "ellipse": lambda rng: _stretched(_regular(48), rng.uniform(1.6, 2.4)),
    "star": lambda rng: _polar(np.tile([1.0, rng.uniform(0.4, 0.5)], 5)),
    "cross": lambda rng: np.concatenate([_CROSS, -_CROSS]),
    "arrow": lambda rng: _stretched(_ARROW, rng.uniform(0.8, 1.2)),
    "corner": lambda rng: _stretched(_CORNER, rng.uniform(0.8, 1.2)),
    "gear": lambda rng: _polar(np.repeat(np.tile([1.0, 0.7], 7), 4)),
    "crescent": _crescent,
    "blob": _blob,
}


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


@dataclasses.dataclass(frozen=True)
class ShapesRecipe:
    """Says what the images look like; lengths are fractions of the image's shorter side."""

    image_size: tuple[int, int] = (128, 128)  # H, W
    classes: tuple[str, ...] = ("circle", "square", "triangle", "hexagon", "ellipse")
    backgrounds: tuple[str, ...] = ("checker", "noise", "gradient")
    surfaces: tuple[str, ...] = ("flat", "noise", "gradient", "stripes", "checker")
    objects: tuple[int, int] = (2, 6)  # least and most objects an image
    tinted: float = 0.0  # share of objects whose strongest color channel is that of their class index modulo 3
    radius: tuple[float, float] = (0.06, 0.22)  # of the circle of equal area
    min_inside: float = 0.6  # fraction of an object that lies within the image
    min_visible: float = 0.35  # fraction of an object's pixels in the image that later objects must leave
    min_area: int = 24  # least visible pixels
    clutter: tuple[int, int] = (2, 8)  # least and most strokes on the background, which are no objects
    noise: tuple[float, float] = (2.0, 10.0)  # standard deviation of pixel noise, gray levels

    def __post_init__(self) -> None:
        for field, known in (("classes", OUTLINES), ("backgrounds", TEXTURES), ("surfaces", TEXTURES)):
            unknown = [name for name in getattr(self, field) if name not in known]
            if unknown or not getattr(self, field):
                raise ValueError(f"ShapesRecipe.{field}: {unknown or 'nothing given'}; known are {sorted(known)}")


def _outline(name: str, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Return a randomly turned outline around (0, 0) with the area of a circle of `radius` pixels."""
    points = OUTLINES[name](rng)
    points = points - points.mean(axis=0)
    x, y = points.T
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    return points @ _rotation(rng.uniform(0, 2 * np.pi)) * (radius * np.sqrt(np.pi / area))


def _place(name: str, recipe: ShapesRecipe, rng: np.random.Generator) -> np.ndarray | None:
    """Return the (H, W) bool mask of a shape at a random place and scale; None if too little is in the image."""
    height, width = recipe.image_size
    low, high = np.log(recipe.radius)
    radius = float(np.exp(rng.uniform(low, high))) * min(height, width)
    center = rng.uniform(0, 1, 2) * (width, height)
    points = (_outline(name, radius, rng) + center) * 2**_SUBPIXEL_BITS
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1, shift=_SUBPIXEL_BITS)
    least = max(recipe.min_area, recipe.min_inside * np.pi * radius**2)
    return mask.astype(bool) if mask.sum() >= least else None


def _keeps_others_visible(mask: np.ndarray, owner: np.ndarray, areas: list[int], recipe: ShapesRecipe) -> bool:
    visible = np.bincount(owner[~mask], minlength=len(areas) + 1)[1:]
    return all(visible >= np.maximum(recipe.min_area, recipe.min_visible * np.array(areas)))


def _clutter(canvas: np.ndarray, recipe: ShapesRecipe, rng: np.random.Generator) -> None:
    """Draw thin strokes onto the canvas, in place."""
    size = np.array(canvas.shape[1::-1])
    for _ in range(rng.integers(recipe.clutter[0], recipe.clutter[1] + 1)):
        start = rng.uniform(0, 1, 2) * size
        bend = rng.normal(0, 0.12, (4, 2)) * size
        points = np.round(start + np.cumsum(bend, axis=0)).astype(np.int32)
        color = rng.uniform(0, 255, 3).tolist()
        cv2.polylines(canvas, [points], False, color, int(rng.integers(1, 3)), cv2.LINE_AA)


def _object_color(below: np.ndarray, channel: int | None, rng: np.random.Generator) -> np.ndarray:
    """Draw a color far from the mean of the covered pixels (N, 3), with the given channel well above the others."""
    ground = below.mean(axis=0)
    while True:
        color = rng.uniform(20, 235, 3)
        if np.linalg.norm(color - ground) < _MIN_COLOR_DISTANCE:
            continue
        if channel is None or color[channel] - np.delete(color, channel).max() >= _MIN_CHANNEL_LEAD:
            return color


def draw_scene(recipe: ShapesRecipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Draw one image.

    Returns:
        image (H, W, 3) uint8; owner (H, W) int64, 0 for background and i for the visible pixels of object i; the
        objects' class names, the first for owner 1.
    """
    size = recipe.image_size
    background = recipe.backgrounds[rng.integers(len(recipe.backgrounds))]
    canvas = paint(background, size, rng.uniform(50, 205, 3), rng.uniform(20, 120), rng)
    _clutter(canvas, recipe, rng)
    owner = np.zeros(size, np.int64)
    areas = []
    names = []
    for _ in range(rng.integers(recipe.objects[0], recipe.objects[1] + 1)):
        name = recipe.classes[rng.integers(len(recipe.classes))]
        for _ in range(_PLACEMENT_TRIES):
            mask = _place(name, recipe, rng)
            if mask is not None and _keeps_others_visible(mask, owner, areas, recipe):
                break
        else:
            continue
        surface = recipe.surfaces[rng.integers(len(recipe.surfaces))]
        tinted = recipe.tinted > 0 and rng.uniform() < recipe.tinted
        channel = recipe.classes.index(name) % 3 if tinted else None
        texture = paint(surface, size, _object_color(canvas[mask], channel, rng), rng.uniform(10, 70), rng)
        alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.6)[..., None]
        canvas = canvas * (1 - alpha) + texture * alpha
        owner[mask] = len(areas) + 1
        areas.append(int(mask.sum()))
        names.append(name)
    canvas = canvas + rng.normal(0, rng.uniform(*recipe.noise), canvas.shape)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8), owner, names


def write_shapes(
    folder: str | os.PathLike, num_images: int, seed: int, image_size: tuple[int, int] = (128, 128), **fields
) -> Path:
    """Write `images/*.png` and then `annotations.json` under `folder`, and return the path of the json.

    Image i depends only on the seed, the recipe and i. A folder that holds the same set stays as it is. Masks are the
    compressed RLE of what is visible; ids of images, annotations and categories count from 1.

    Args:
        folder: folder of the set.
        num_images: number of images.
        seed: seed of the set.
        image_size: (H, W) in pixels.
        fields: other fields of ShapesRecipe.
    """
    recipe = ShapesRecipe(image_size=tuple(image_size), **fields)
    info = json.loads(json.dumps({"seed": seed, "num_images": num_images, **dataclasses.asdict(recipe)}))
    json_file = Path(folder, "annotations.json")
    if json_file.is_file() and json.loads(json_file.read_text(encoding="utf-8"))["info"] == info:
        return json_file
    json_file.unlink(missing_ok=True)  # An interrupted rewrite must not look like the old set.
    Path(folder, "images").mkdir(parents=True, exist_ok=True)
    images = []
    annotations = []
    for index in range(num_images):
        image, owner, names = draw_scene(recipe, np.random.default_rng([seed, index]))
        name = f"{index + 1:06d}.png"
        write_png(Path(folder, "images", name), image)
        images.append({"id": index + 1, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
        for number, name in enumerate(names, start=1):
            ids = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": recipe.classes.index(name) + 1}
            annotations.append({**ids, "iscrowd": 0, **encode_mask(owner == number)})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(recipe.classes)]
    with atomic_write(json_file, "w") as file:
        json.dump({"info": info, "images": images, "annotations": annotations, "categories": categories}, file)
    return json_file
