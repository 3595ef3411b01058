"""Cut the images and masks of a COCO json into tiles.

Tiles suit images with small objects, such as nuclei in microscopy: Mask2Former finds few of them in whole images.

    s4m tiles --json annotations/instances_val.json --images val --tile 128 --output tiles/val
"""

import argparse

from s4m.data.tiles import write_tiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--json", required=True, help="COCO instances json")
    parser.add_argument("--images", required=True, help="folder of its images")
    parser.add_argument("--output", required=True, help="folder for images/ and annotations.json")
    parser.add_argument("--tile", type=int, default=128, help="greatest side of a tile in pixels")
    parser.add_argument("--min-share", type=float, default=0.2, help="least share of an object in a tile; else a crowd")


def run(args: argparse.Namespace) -> None:
    """Write the tiles and print the path of their json."""
    print(write_tiles(args.json, args.images, args.output, args.tile, args.min_share))
