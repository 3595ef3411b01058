"""Arguments of the commands that write reports."""

import argparse

from d2kit.report.page import page_path
from d2kit.report.report import REPORT, ReportParts, write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folders of trainings and --output."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that trainings wrote")
    parser.add_argument("--output", help="file to write, .html, or its folder (default for one run: its folder)")


def write(args: argparse.Namespace, parts: ReportParts) -> None:
    """Write the report of these parts and print its path."""
    if len(args.runs) > 1 and not args.output:
        raise argparse.ArgumentError(None, "a comparison needs --output.")
    path = page_path(args.output or args.runs[0], REPORT)
    write_report(parts, args.runs, path)
    print(path)
