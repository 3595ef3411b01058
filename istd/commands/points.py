"""Make one point per target from masks, as a folder of PNGs or a CSV.

    istd points /data/own/masks --output /data/own_points --kind centroid
    istd points /data/own/masks --output points.csv --kind coarse --seed 1
"""

import argparse
import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2kit.files import atomic_write, write_png
from d2kit.rng import derive_seed
from istd.data.images import EXTENSIONS, image_name, read_mask
from istd.data.points import KINDS, points_from_mask
from istd.data.synthetic import draw_points


class MaskPoints(NamedTuple):
    """The points of one mask.

    Attributes:
        image: name of its image.
        points: list of [x, y], pixel indices.
        height, width: of the mask, pixels.
    """

    image: str
    points: list[list[int]]
    height: int
    width: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("masks", help="folder of masks")
    parser.add_argument("--output", required=True, help="new folder for PNGs, or a file that ends in .csv")
    parser.add_argument("--kind", choices=KINDS, default="centroid")
    parser.add_argument("--seed", type=int, default=0, help="of the coarse points")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder or file that exists")


def points_of_folder(masks: Path, kind: str, seed: int) -> Iterator[MaskPoints]:
    """Points of every mask of the folder, by name; a file's random draws depend on its name alone."""
    files = sorted(path for path in masks.iterdir() if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise FileNotFoundError(f"{masks} holds no masks ({', '.join(EXTENSIONS)}).")
    for path in files:
        mask = read_mask(path)
        generator = np.random.default_rng(derive_seed(seed, "coarse", image_name(path)))
        points = points_from_mask(mask, kind, generator)
        yield MaskPoints(image_name(path).removesuffix("_pixels0"), points, *mask.shape)


def write_csv(path: Path, rows: Iterable[MaskPoints]) -> list[int]:
    """Columns image, x, y; an image without targets has one line with x and y empty. Numbers of points."""
    counts = []
    with atomic_write(path, "w") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "x", "y"))
        for row in rows:
            writer.writerows([(row.image, x, y) for x, y in row.points] or [(row.image, "", "")])
            counts.append(len(row.points))
    return counts


def write_folder(folder: Path, rows: Iterable[MaskPoints]) -> list[int]:
    """One PNG per image, 255 at the points. Numbers of points."""
    counts = []
    for row in rows:
        write_png(folder / f"{row.image}.png", draw_points(row.points, row.height, row.width))
        counts.append(len(row.points))
    return counts


def run(args: argparse.Namespace) -> None:
    """Write the points."""
    masks, output = Path(args.masks), Path(args.output)
    if not masks.is_dir():
        raise FileNotFoundError(f"{masks} is not a folder of masks.")
    if output.exists() and (not args.overwrite or os.path.samefile(masks, output)):
        raise FileExistsError(f"{output} exists: choose another output, or --overwrite (never the masks).")
    rows = points_of_folder(masks, args.kind, args.seed)
    counts = write_csv(output, rows) if output.suffix.lower() == ".csv" else write_folder(output, rows)
    print(f"{sum(counts)} points of {len(counts)} images: {output}")
