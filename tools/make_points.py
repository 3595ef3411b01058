"""Make one point per target from masks, as a folder of PNGs or a CSV.

Example: python tools/make_points.py /data/own/masks --output /data/own_points --kind centroid
         python tools/make_points.py /data/own/masks --output points.csv --kind coarse --seed 1
"""

import argparse
import csv
import os
import sys
from pathlib import Path

import numpy as np

from d2kit.files import atomic_write, write_png
from d2kit.rng import derive_seed
from istd.data.images import EXTENSIONS, image_name, read_mask
from istd.data.points import KINDS, points_from_mask
from istd.data.synthetic import draw_points


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", help="folder of masks")
    parser.add_argument("--output", required=True, help="new folder for PNGs, or a file that ends in .csv")
    parser.add_argument("--kind", choices=KINDS, default="centroid")
    parser.add_argument("--seed", type=int, default=0, help="of the coarse points")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder or file that exists")
    return parser.parse_args(arguments)


def points_of_folder(masks: Path, kind: str, seed: int):
    """(name, points, height, width) of every mask of the folder, by name; a file's draws depend on its name alone."""
    files = sorted(path for path in masks.iterdir() if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise FileNotFoundError(f"{masks} holds no masks ({', '.join(EXTENSIONS)}).")
    for path in files:
        mask = read_mask(path)
        generator = np.random.default_rng(derive_seed(seed, "coarse", image_name(path)))
        yield image_name(path).removesuffix("_pixels0"), points_from_mask(mask, kind, generator), *mask.shape


def write_csv(path: Path, rows) -> tuple[int, int]:
    """Columns image, x, y; an image without targets has one line with x and y empty. Numbers of images and points."""
    images = points = 0
    with atomic_write(path, "w") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "x", "y"))
        for name, found, _, _ in rows:
            writer.writerows([(name, x, y) for x, y in found] or [(name, "", "")])
            images, points = images + 1, points + len(found)
    return images, points


def write_folder(folder: Path, rows) -> tuple[int, int]:
    """One PNG per image, 255 at the points. Numbers of images and points."""
    images = points = 0
    for name, found, height, width in rows:
        write_png(folder / f"{name}.png", draw_points(found, height, width))
        images, points = images + 1, points + len(found)
    return images, points


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    masks, output = Path(options.masks), Path(options.output)
    try:
        if not masks.is_dir():
            raise FileNotFoundError(f"{masks} is not a folder of masks.")
        if output.exists() and (not options.overwrite or os.path.samefile(masks, output)):
            raise FileExistsError(f"{output} exists: choose another output, or --overwrite (never the masks).")
        rows = points_of_folder(masks, options.kind, options.seed)
        images, points = (write_csv if output.suffix.lower() == ".csv" else write_folder)(output, rows)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{points} points of {images} images: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
