#!/usr/bin/env python
"""Ablation of S4M: supervised, mean teacher, each part alone, all, and each one left out, over seeds.

python tools/ablate.py --output output/ablation_shapes_5 --seeds 1 2 3 --jobs 2        # synthetic shapes, 5 % labels
python tools/ablate.py --prefix dsb2018 --percent 5 --output output/ablation_dsb2018 --device cuda --jobs 14 \\
    --train JSON IMAGES --test JSON IMAGES [--rows ROW ...] [--minutes M] [--opts KEY VALUE ...]
An ablation that was cut off goes on where it was. ablation.md, .json and .png tell, after each sitting, all rows and
all seeds of the folder; a folder is of one data set, one fraction, one kind of device and one set of options.
"""

import argparse
import json
from typing import Any

from d2kit.files import atomic_write
from d2kit.processes import exit_on_sigterm
from s4m.engine.ablation import Ablation, grid
from s4m.engine.arguments import data_of, parse_arguments, settings_of
from s4m.engine.sitting import check_settings, sole_process
from s4m.evaluation.ablation_report import ablation_plot, ablation_table


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help=f"of {', '.join(grid())}; default: all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for all trainings")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each of one thread")
    parser.add_argument("--minutes", type=float, help="stop after them; the next call goes on")
    args = parse_arguments(parser)
    unknown = [name for name in args.rows if name not in grid()]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(grid())}")
    return args


def main() -> None:
    """Run what is missing and write the table, the figures and the plot."""
    args = parse()
    exit_on_sigterm()
    settings = settings_of(args, [row.run for row in grid().values()]) | {"device": args.device}
    with sole_process(args.output):
        check_settings(args.output, settings)
        data = {seed: data_of(args, seed) for seed in args.seeds}
        options = ["MODEL.DEVICE", args.device, *args.opts]
        ablation, rows = Ablation(args.prefix, data, args.output, options), None
        try:
            rows = ablation.run(args.rows, args.jobs, args.minutes)
        finally:
            write_report(ablation, rows or ablation.report(), args, settings)


def write_report(ablation: Ablation, rows: list[dict[str, Any]], args: argparse.Namespace, settings: dict) -> None:
    """Write ablation.json, .md and .png, and print the table."""
    told = {**settings, "seeds": ", ".join(map(str, ablation.seeds)), "trainings at a time": args.jobs}
    with atomic_write(args.output / "ablation.json", "w") as file:
        json.dump({"settings": told, "rows": rows}, file, indent=1)
    table = ablation_table(rows, told)
    with atomic_write(args.output / "ablation.md", "w") as file:
        file.write(table)
    ablation_plot(rows, args.output / "ablation.png", f"{args.prefix}, {args.percent:g} % labels")
    print(table)


if __name__ == "__main__":
    main()
