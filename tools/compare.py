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
from pathlib import Path

from d2kit.files import atomic_write
from d2kit.processes import exit_on_sigterm
from s4m.engine.compare import RUNS, compare, config_files, over_seeds, shapes_data, split_data
from s4m.engine.sitting import check_settings, configurations_digest, sole_process
from s4m.evaluation.report import comparison_picture, format_table


def main() -> None:
    """Run the trainings of all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--prefix", default="shapes", help="of the configurations under configs/quick")
    parser.add_argument("--train", nargs=2, metavar=("JSON", "IMAGES"), help="default: synthetic shapes")
    parser.add_argument("--test", nargs=2, metavar=("JSON", "IMAGES"))
    parser.add_argument("--percent", type=float, default=5, help="labelled share of the training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the data, the split and the trainings")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="shared by the trainings")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for every training, last")
    args = parser.parse_args()
    if bool(args.train) != bool(args.test):
        parser.error("--train and --test go together")
    exit_on_sigterm()
    began = time.monotonic()
    args.output = args.output.resolve()
    settings = {
        "configurations": f"configs/quick/{args.prefix}_*.yaml",
        "configurations' digest": configurations_digest(config_files(args.prefix, RUNS.values())),
        "training data": " ".join(args.train) if args.train else "synthetic shapes",
        "test data": " ".join(args.test) if args.test else "synthetic shapes",
        "labelled percent": args.percent,
        "options": " ".join(args.opts),
    }
    with sole_process(args.output):
        check_settings(args.output, settings)
        seeds = run_seeds(args)
    print(format_table(over_seeds(seeds)))
    print(f"{time.monotonic() - began:.0f} s in all. TensorBoard: tensorboard --logdir {args.output}")


def run_seeds(args: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """The comparison of each seed, with its picture; summary.json tells those that are done."""
    seeds = []
    for seed in args.seeds:
        output = args.output / f"seed{seed}"
        if args.train:
            test = ":".join(["coco", *(str(Path(part).resolve()) for part in args.test)])
            train_json, train_images = (Path(part).resolve() for part in args.train)
            data = split_data(train_json, train_images, test, args.percent, seed, output / "splits")
        else:
            data = shapes_data(output / "data", args.percent, seed)
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
