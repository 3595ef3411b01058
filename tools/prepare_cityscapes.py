"""Bring Cityscapes' fine training instances into COCO format, and split them into labelled fractions.

Example, with leftImg8bit and gtFine in datasets/cityscapes:
    python tools/prepare_cityscapes.py --root datasets/cityscapes --percent 5 10 20 30

The fractions are plain random samples of the images, whatever their city.
"""

import argparse
import sys
from collections.abc import Sequence

from s4m.data.cityscapes import prepare_cityscapes
from s4m.data.splits import write_splits


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with leftImg8bit and gtFine")
    parser.add_argument("--output", help="folder of the jsons; by default 'coco' in --root")
    parser.add_argument("--percent", type=float, nargs="*", default=[5, 10, 20, 30])
    parser.add_argument("--folds", type=int, default=5, help="independent random orders, numbered from 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-missing-classes", action="store_true", help="go on when a fraction misses a class")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    try:
        written = [prepare_cityscapes(args.root, args.output)]
        if args.percent:
            allow = {"allow_missing_classes": args.allow_missing_classes}
            written += write_splits(written[0], args.percent, args.folds, args.seed, **allow)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"prepare_cityscapes: {error}")
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
