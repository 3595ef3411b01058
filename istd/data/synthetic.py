"""Synthetic infrared scenes, written as a SIRST-style folder."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2kit.files import atomic_write, write_png
from d2kit.rng import derive_seed
from istd.data.points import points_from_mask
from istd.data.scenery import CHARACTERISTICS, CLUTTERS, add_targets, background, sensor
from istd.data.sirst_folder import CHARACTERISTICS as CHARACTERISTICS_FILE

EMPTY = "empty"  # characteristic of an image without targets


def make_scene(
    seed: int, index: int, *, size: Sequence[int], characteristic: str, clutter: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        seed, index: numbers of the scene; the same pair gives the same scene.
        size: (height, width).
        characteristic: one of CHARACTERISTICS, or "empty".
        clutter: one of CLUTTERS.

    Returns:
        image: (H, W) uint8.
        mask: (H, W) uint8 of 0 and 1.
    """
    rng = np.random.default_rng(derive_seed(seed, "scene", index))
    scene = background(rng, clutter, *size)
    mask = np.zeros(scene.shape, np.uint8)
    if characteristic != EMPTY:
        count = int(rng.choice((1, 2, 3), p=(0.65, 0.25, 0.1)))
        scene, mask = add_targets(rng, scene, characteristic, count)
    return sensor(rng, scene), mask


def write_scenes(
    root: str | os.PathLike,
    count: int = 300,
    *,
    seed: int = 0,
    size: tuple[int, int] = (128, 256),
    splits: tuple[float, float] = (0.6, 0.15),
    empty_share: float = 0.05,
) -> dict[str, int]:
    """Write `count` scenes to the new folder `root`, in the layout of `load_sirst`.

    The folder gets images/, masks/ (0 and 255), masks_centroid/, masks_coarse/, characteristics.csv (image,
    characteristic, clutter), train.txt, val.txt and test.txt.

    Args:
        root, count, seed: folder, number of images, and seed of all random numbers.
        size: smallest and largest side in pixels; height and width are drawn separately, in steps of 16.
        splits: shares of train and val; the rest is test. Each split has every characteristic.
        empty_share: share of images without targets.

    Returns:
        number of images in each split.

    Raises:
        FileExistsError: `root` already holds a data set.
    """
    root = Path(root)
    if (root / "images").exists():
        raise FileExistsError(f"{root} already holds a data set: choose another folder.")
    for folder in ("images", "masks", "masks_centroid", "masks_coarse"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(derive_seed(seed, "scenes"))
    rows = []
    for index in range(count):
        characteristic = EMPTY if rng.random() < empty_share else CHARACTERISTICS[index % len(CHARACTERISTICS)]
        clutter = CLUTTERS[int(rng.integers(len(CLUTTERS)))]
        sides = rng.integers(-(-size[0] // 16), size[1] // 16 + 1, 2) * 16
        image, mask = make_scene(seed, index, size=sides.tolist(), characteristic=characteristic, clutter=clutter)
        name = f"scene_{index:05d}"
        _write_images(root, name, image, mask, np.random.default_rng(derive_seed(seed, "coarse", index)))
        rows.append((name, characteristic, clutter))
    with atomic_write(root / CHARACTERISTICS_FILE, "w") as file:
        csv.writer(file).writerows([("image", "characteristic", "clutter"), *rows])
    return _write_splits(root, [row[0] for row in rows], splits, rng)


def _write_images(root: Path, name: str, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    pictures = {"images": image, "masks": mask * 255}
    for kind in ("centroid", "coarse"):
        pictures[f"masks_{kind}"] = draw_points(points_from_mask(mask, kind, rng), *mask.shape)
    for folder, picture in pictures.items():
        write_png(root / folder / f"{name}.png", picture)


def draw_points(points: Sequence[Sequence[int]], height: int, width: int) -> np.ndarray:
    """Draw points as an (H, W) uint8 image that is 255 at each [x, y]."""
    picture = np.zeros((height, width), np.uint8)
    for x, y in points:
        picture[y, x] = 255
    return picture


def _write_splits(root: Path, names: list[str], splits: tuple[float, float], rng: np.random.Generator) -> dict:
    # Consecutive scenes have different characteristics, so blocks of all characteristics make the splits alike.
    block = len(CHARACTERISTICS)
    order = [name for start in rng.permutation(range(0, len(names), block)) for name in names[start : start + block]]
    ends = [round(splits[0] * len(names)), round((splits[0] + splits[1]) * len(names)), len(names)]
    names_of = {"train": order[: ends[0]], "val": order[ends[0] : ends[1]], "test": order[ends[1] :]}
    for split, split_names in names_of.items():
        with atomic_write(root / f"{split}.txt", "w") as file:
            file.writelines(f"{name}\n" for name in sorted(split_names))
    return {split: len(split_names) for split, split_names in names_of.items()}
