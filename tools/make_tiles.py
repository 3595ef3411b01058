"""Cut the images and masks of a COCO json into tiles.

For images whose objects are small against them, as nuclei in microscopy: in whole images a Mask2Former finds few.

Example:
    python tools/make_tiles.py --json annotations/instances_val.json --images val --tile 128 --output tiles/val
"""

import argparse
import sys
from collections.abc import Sequence

from s4m.data.tiles import write_tiles


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="COCO instances json")
    parser.add_argument("--images", required=True, help="folder of its images")
    parser.add_argument("--output", required=True, help="folder for images/ and annotations.json")
    parser.add_argument("--tile", type=int, default=128, help="most pixels of a tile's side")
    parser.add_argument("--min-share", type=float, default=0.2, help="of an object in a tile; less is a crowd region")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        path = write_tiles(args.json, args.images, args.output, args.tile, args.min_share)
    except (OSError, ValueError) as error:
        sys.exit(f"make_tiles: {error}")
    print(path)


if __name__ == "__main__":
    main()
