#!/usr/bin/env python
"""Plot ROC curves of ISTD results; training writes them to OUTPUT_DIR/test/istd.json, --eval-only to
OUTPUT_DIR/eval/NAME/istd.json, NAME that of the checkpoint.

    python tools/plot_roc.py output/alcnet_full/test/istd.json output/alcnet_pal/test/istd.json --output roc.png

A curve is named by the folder of its run, or by --labels.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from istd.evaluation.roc import read_curve, save_roc


def main(arguments: Sequence[str] | None = None) -> None:
    """Plot as the options say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="json files of the evaluator")
    parser.add_argument("--output", required=True, help="picture to write: .png, .pdf or .svg")
    parser.add_argument("--labels", nargs="+", help="a name for each curve")
    parser.add_argument("--split", default="all", help="a target characteristic (default: all)")
    options = parser.parse_args(arguments)
    labels = options.labels or [f"{path.resolve().parent.parent.name} {path.stem}" for path in options.results]
    if len(set(labels)) != len(options.results):
        parser.error("every curve needs a name of its own: give --labels.")
    try:
        curves = {name: read_curve(path, options.split) for name, path in zip(labels, options.results, strict=True)}
        save_roc(options.output, curves)
    except (OSError, ValueError) as error:
        sys.exit(f"plot_roc: {error}")
    print(options.output)


if __name__ == "__main__":
    main()
