"""Write what a training did, or a comparison of several, as one page of HTML without scripts.

    istd report output/alcnet
    istd report output/alcnet output/alcnet_full --output comparison.html

A training writes the report of itself at its end, OUTPUT_DIR/report.html. A run needs only its metrics.json; what else
is in its folder adds to the report.
"""

import argparse
from dataclasses import replace

from d2kit.report.command import add_arguments, write
from istd import add_istd_config
from istd.engine.report import REPORT_PARTS

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> None:
    """Write the report and print its path."""
    write(args, replace(REPORT_PARTS, add_keys=add_istd_config))  # This also registers data sets, which pictures need.
