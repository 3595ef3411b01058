"""The command line that tools/compare.py and tools/ablate.py share: a data set, a fraction, seeds and a folder."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from s4m.engine.compare import CONFIGS, Data, Run, shapes_data, split_data
from s4m.engine.sitting import configurations_digest

_SHAPES = "synthetic shapes"


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the shared options to those of a tool and read them all; paths come back absolute."""
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--prefix", default="shapes", help="of the configurations under configs/quick")
    parser.add_argument("--train", type=Path, nargs=2, metavar=("JSON", "IMAGES"), help=f"default: {_SHAPES}")
    parser.add_argument("--test", type=Path, nargs=2, metavar=("JSON", "IMAGES"))
    parser.add_argument("--percent", type=float, default=5, help="labelled share of the training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the data, the split and the trainings")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for every training, last")
    args = parser.parse_args()
    if bool(args.train) != bool(args.test):
        parser.error("--train and --test go together")
    args.output = args.output.resolve()
    args.train, args.test = ([path.resolve() for path in paths or []] for paths in (args.train, args.test))
    return args


def settings_of(args: argparse.Namespace, runs: Iterable[Run]) -> dict[str, Any]:
    """What decides the figures of trainings: their configurations, data and options."""
    files = {CONFIGS / f"{args.prefix}_{run.config}.yaml" for run in runs}
    return {
        "configurations": f"configs/quick/{args.prefix}_*.yaml",
        "configurations' digest": configurations_digest(files),
        "training data": " ".join(map(str, args.train)) or _SHAPES,
        "test data": " ".join(map(str, args.test)) or _SHAPES,
        "labelled percent": args.percent,
        "options": " ".join(args.opts),
    }


def data_of(args: argparse.Namespace, seed: int) -> Data:
    """The sets of a seed, written under its folder where they are not there."""
    folder = args.output / f"seed{seed}"
    if not args.train:
        return shapes_data(folder / "data", args.percent, seed)
    test = ":".join(["coco", *map(str, args.test)])
    return split_data(*args.train, test, args.percent, seed, folder / "splits")
