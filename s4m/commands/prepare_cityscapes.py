"""Bring the fine training instances of Cityscapes into COCO format, and split them into labeled fractions.

If datasets/cityscapes holds leftImg8bit and gtFine:

    s4m prepare-cityscapes --root datasets/cityscapes --percent 5 10 20 30

The fractions are random samples of the images of all cities.
"""

import argparse

from s4m.commands.split import add_fold_arguments, write_fractions
from s4m.data.cityscapes import prepare_cityscapes


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
        written += write_fractions(written[0], args)
    print(*written, sep="\n")
