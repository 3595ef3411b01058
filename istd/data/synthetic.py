"""Synthetic infrared scenes as a SIRST-style folder, for the demo, the tests and the benchmark."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2kit.files import atomic_write, write_png
from d2kit.rng import derive_seed
from istd.data.datasets import CHARACTERISTICS as CHARACTERISTICS_FILE
from istd.data.points import points_from_mask
from istd.data.scenery import CHARACTERISTICS, CLUTTERS, add_targets, background, sensor

EMPTY = "empty"  # characteristic of an image without targets


def make_scene(seed: int, index: int, *, size: Sequence[int], characteristic: str, clutter: str):
    """One scene.

    Args:
        seed, index: of the scene; the same pair gives the same scene.
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

    images/, masks/ (0 and 255), masks_centroid/, masks_coarse/, characteristics.csv (image, characteristic, clutter),
    train.txt, val.txt, test.txt.

    Args:
        seed: of everything.
        size: least and greatest side in pixels, drawn for height and width apart, in steps of 16.
        splits: shares of train and val; the rest is test. Every characteristic is spread over all of them.
        empty_share: share of images without targets.

    Returns:
        Number of images per split.

    Raises:
        FileExistsError: `root` holds a data set already.
    """
    root = Path(root)
    if (root / "images").exists():
        raise FileExistsError(f"{root} holds a data set already: choose another folder.")
    for folder in ("images", "masks", "masks_centroid", "masks_coarse"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(derive_seed(seed, "scenes"))
    rows = []
    for index in range(count):
        kind = EMPTY if rng.random() < empty_share else CHARACTERISTICS[index % len(CHARACTERISTICS)]
        clutter = CLUTTERS[int(rng.integers(len(CLUTTERS)))]
        sides = rng.integers(-(-size[0] // 16), size[1] // 16 + 1, 2) * 16
        image, mask = make_scene(seed, index, size=tuple(sides.tolist()), characteristic=kind, clutter=clutter)
        name = f"scene_{index:05d}"
        _write_images(root, name, image, mask, np.random.default_rng(derive_seed(seed, "coarse", index)))
        rows.append((name, kind, clutter))
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
    """(H, W) uint8, 255 at each [x, y]."""
    picture = np.zeros((height, width), np.uint8)
    for x, y in points:
        picture[y, x] = 255
    return picture


def _write_splits(root: Path, names: list[str], splits: tuple[float, float], rng: np.random.Generator) -> dict:
    # Scenes of one characteristic are len(CHARACTERISTICS) apart: blocks of so many keep the splits alike.
    block = len(CHARACTERISTICS)
    order = [name for start in rng.permutation(range(0, len(names), block)) for name in names[start : start + block]]
    ends = [round(splits[0] * len(names)), round((splits[0] + splits[1]) * len(names)), len(names)]
    parts = {"train": order[: ends[0]], "val": order[ends[0] : ends[1]], "test": order[ends[1] :]}
    for split, members in parts.items():
        with atomic_write(root / f"{split}.txt", "w") as file:
            file.writelines(f"{name}\n" for name in sorted(members))
    return {split: len(members) for split, members in parts.items()}
