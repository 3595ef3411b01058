"""Write what a training did, or a comparison of several, as one page of HTML without scripts.

    istd report output/alcnet
    istd report output/alcnet output/alcnet_full --output comparison.html

A training writes the report of itself at its end, OUTPUT_DIR/report.html. A run needs only its metrics.json; what else
is in its folder adds to the report.
"""

import argparse
from dataclasses import replace

from d2kit.report.page import page_path
from d2kit.report.report import REPORT, write_report
from istd import add_istd_config
from istd.engine.report import REPORT_PARTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that trainings wrote")
    parser.add_argument("--output", help="file to write, .html, or its folder (default for one run: its folder)")


def run(args: argparse.Namespace) -> None:
    """Write the report and print its path."""
    if len(args.runs) > 1 and not args.output:
        raise argparse.ArgumentError(None, "a comparison needs --output.")
    path = page_path(args.output or args.runs[0], REPORT)
    parts = replace(REPORT_PARTS, add_keys=add_istd_config)  # This also registers data sets, which pictures need.
    write_report(parts, args.runs, path)
    print(path)
