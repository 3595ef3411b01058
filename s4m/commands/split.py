"""Write labeled fractions of a COCO json and the matching unlabeled jsons; a smaller fraction is part of a larger one.

    s4m split --json datasets/coco/annotations/instances_train2017.json --percent 1 2 5 10 --allow-missing-classes

A fraction of 1 % may have no image of a rare class; then nothing is written without --allow-missing-classes.
"""

import argparse
from pathlib import Path
from typing import Any

from s4m.data.splits import write_splits


def add_fold_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every command that writes fractions."""
    parser.add_argument("--folds", type=int, default=5, help="number of independent random orders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-missing-classes", action="store_true", help="go on when a fraction misses a class")


def write_fractions(json_file: str | Path, args: argparse.Namespace, **options: Any) -> list[Path]:
    """Call `write_splits` with --percent, the arguments of `add_fold_arguments` and further options."""
    missing = args.allow_missing_classes
    return write_splits(json_file, args.percent, args.folds, args.seed, allow_missing_classes=missing, **options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--json", required=True, help="COCO instances json to split")
    parser.add_argument("--percent", type=float, nargs="+", default=[0.5, 1, 2, 5, 10, 20, 30, 50])
    parser.add_argument("--output", help="folder of the jsons; by default 'splits' beside --json")
    parser.add_argument("--unlabeled", choices=("rest", "all"), default="rest", help="images of the unlabeled json")
    parser.add_argument("--val", nargs="*", default=[], help="validation jsons that must share no image with --json")
    parser.add_argument("--image-root", help="folder of the images: check that they exist, compare contents with --val")
    parser.add_argument("--val-image-root", help="folder of the validation images; by default --image-root")
    add_fold_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Write the jsons and print their paths."""
    written = write_fractions(
        args.json,
        args,
        output=args.output,
        unlabeled=args.unlabeled,
        val_jsons=args.val,
        image_root=args.image_root,
        val_image_root=args.val_image_root,
    )
    print(*written, sep="\n")
