"""Plot ROC curves of evaluations.

Training writes evaluations to OUTPUT_DIR/test/istd.json, and `istd eval` writes them to OUTPUT_DIR/eval/NAME/istd.json,
where NAME is that of the checkpoint.

    istd roc output/alcnet_full/test/istd.json output/alcnet/test/istd.json --output roc.png

Each curve has the name of its run's folder, or the name that --labels gives.
"""

import argparse
from pathlib import Path

from istd.evaluation.roc import read_curve, save_roc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("results", nargs="+", type=Path, help="json files of the evaluator")
    parser.add_argument("--output", required=True, help="picture to write: .png, .pdf or .svg")
    parser.add_argument("--labels", nargs="+", help="a name for each curve")
    parser.add_argument("--split", default="all", help="target characteristic (default: all)")


def run(args: argparse.Namespace) -> None:
    """Write the picture."""
    labels = args.labels or [f"{path.resolve().parent.parent.name} {path.stem}" for path in args.results]
    if len(set(labels)) != len(args.results):
        raise argparse.ArgumentError(None, "every curve needs a name of its own: give --labels.")
    curves = {label: read_curve(path, args.split) for label, path in zip(labels, args.results, strict=True)}
    save_roc(args.output, curves)
    print(args.output)
