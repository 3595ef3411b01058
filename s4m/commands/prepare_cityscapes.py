"""Bring Cityscapes' fine training instances into COCO format, and split them into labeled fractions.

With leftImg8bit and gtFine in datasets/cityscapes:

    s4m prepare-cityscapes --root datasets/cityscapes --percent 5 10 20 30

The fractions are plain random samples of the images, whatever their city.
"""

import argparse

from s4m.commands.split import add_fold_arguments
from s4m.data.cityscapes import prepare_cityscapes
from s4m.data.splits import write_splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--root", required=True, help="folder with leftImg8bit and gtFine")
    parser.add_argument("--output", help="folder of the jsons; by default 'coco' in --root")
    parser.add_argument("--percent", type=float, nargs="*", default=[5, 10, 20, 30])
    add_fold_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Write the jsons and print their paths."""
    written = [prepare_cityscapes(args.root, args.output)]
    if args.percent:
        allow = {"allow_missing_classes": args.allow_missing_classes}
        written += write_splits(written[0], args.percent, args.folds, args.seed, **allow)
    print(*written, sep="\n")
