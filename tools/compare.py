#!/usr/bin/env python
"""Compare the supervised baseline, a mean teacher and S4M on one data set; an interrupted comparison goes on.

python tools/compare.py --output output/demo                                  # synthetic shapes, 5 % labels, one seed
python tools/compare.py --prefix dsb2018 --percent 10 --seeds 1 --output output/dsb2018_10 \\
    --train JSON IMAGES --test JSON IMAGES [--opts KEY VALUE ...]
python tools/compare.py --prefix shapes_mask2former --output output/mask2former   # shapes_vit, dsb2018_mask2former, ...
dsb2018_mask2former wants tiles: cut the images of --train and --test by tools/make_tiles.py first.
Prints the commands of the trainings, then their AP; leaves summary.json, pictures and TensorBoard logs.
"""

import argparse
import json
import os
import time

from d2kit.files import atomic_write
from d2kit.processes import exit_on_sigterm
from s4m.engine.arguments import data_of, parse_arguments, settings_of
from s4m.engine.compare import RUNS, compare, over_seeds
from s4m.engine.sitting import check_settings, sole_process
from s4m.evaluation.report import comparison_picture, format_table


def main() -> None:
    """Run the trainings of all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="shared by the trainings")
    args = parse_arguments(parser)
    exit_on_sigterm()
    began = time.monotonic()
    with sole_process(args.output):
        check_settings(args.output, settings_of(args, RUNS.values()))
        seeds = run_seeds(args)
    print(format_table(over_seeds(seeds)))
    print(f"{time.monotonic() - began:.0f} s in all. TensorBoard: tensorboard --logdir {args.output}")


def run_seeds(args: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """The comparison of each seed, with its picture; summary.json tells those that are done."""
    seeds = []
    for seed in args.seeds:
        output = args.output / f"seed{seed}"
        data = data_of(args, seed)
        jobs, threads = min(args.jobs, args.threads), args.threads
        seeds.append(compare(args.prefix, data, output, seed, options=args.opts, jobs=jobs, threads=threads))
        folders = {RUNS[run].title: output / run for run in ("supervised", "mean_teacher", "s4m")}
        print(f"Picture: {comparison_picture(folders, data.test, output)}", flush=True)
        with atomic_write(args.output / "summary.json", "w") as file:
            json.dump(
                {"prefix": args.prefix, "percent": args.percent, "seeds": args.seeds, "runs": seeds}, file, indent=1
            )
    return seeds


if __name__ == "__main__":
    main()
