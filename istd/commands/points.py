"""Make one point per target from masks, as a folder of PNGs or a CSV.

istd points /data/own/masks --output /data/own_points --kind centroid
istd points /data/own/masks --output points.csv --kind coarse --seed 1
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from d2kit.files import atomic_write, inside, require_apart, write_png
from d2kit.rng import derive_seed
from istd.data.frames import count_frames, require_whole
from istd.data.images import EXTENSIONS, read_mask
from istd.data.mask_files import image_of_mask
from istd.data.names import image_files, image_key
from istd.data.points import KINDS, points_from_mask
from istd.data.synthetic import draw_points


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("masks", help="folder of masks")
    parser.add_argument("--output", required=True, help="new folder for PNGs, or a file that ends in .csv")
    parser.add_argument("--kind", choices=KINDS, default="centroid", help="kind of points (default: centroid)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the coarse points (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder or file that exists")


def points_of_folder(masks: Path, kind: str, seed: int) -> Iterator[tuple[str, list[list[int]], tuple[int, int]]]:
    """Yield the image name, the points [x, y] in pixel indices and the (height, width) of every mask, by file name.

    Masks in subfolders have the names of the subfolders before their own. A file of several masks is a folder of them
    that are named by their numbers, as in clip/000003. The random numbers for a mask depend on `seed` and its name
    alone.
    """
    files = image_files(masks)
    if not files:
        raise FileNotFoundError(f"{masks} holds no masks ({', '.join(EXTENSIONS)}).")
    for path in files:
        name = image_key(path.relative_to(masks))
        image = image_of_mask(name)
        require_whole(path)
        frames = count_frames(path)
        for number in range(frames):
            end = f"/{number:06}" if frames > 1 else ""
            mask = read_mask(f"{path}{end}")
            generator = np.random.default_rng(derive_seed(seed, "coarse", f"{name}{end}"))
            yield f"{image}{end}", points_from_mask(mask, kind, generator), mask.shape


def run(args: argparse.Namespace) -> None:
    """Write the points: one PNG for each image, 255 at the points, or a CSV with the columns image, x and y.

    In the CSV, an image without targets has one line with empty x and y.
    """
    masks = Path(args.masks)
    output = Path(args.output)
    if not masks.is_dir():
        raise FileNotFoundError(f"{masks} is not a folder of masks.")
    is_table = output.suffix.lower() == ".csv"
    if output.exists() and not args.overwrite:
        raise FileExistsError(f"{output} exists: choose another output, or --overwrite.")
    if not is_table:
        require_apart(output, masks)
    images = list(points_of_folder(masks, args.kind, args.seed))
    if is_table:
        lines = [(name, *point) for name, points, _ in images for point in points or [("", "")]]
        with atomic_write(output, "w") as file:
            csv.writer(file).writerows([("image", "x", "y"), *lines])
    else:
        for name, points, shape in images:
            write_png(inside(output, f"{name}.png"), draw_points(points, *shape))
    print(f"{sum(len(points) for _, points, _ in images)} points of {len(images)} images: {output}")
