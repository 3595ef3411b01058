#!/usr/bin/env python
"""Semi-supervised instance segmentation on synthetic shapes, from nothing to a table, on a CPU.

python tools/demo.py --output output/demo [--seed 1] [--percent 5]
Trains the supervised baseline, a mean teacher and S4M (teacher stage, student stage) by tools/train_net.py, prints
their AP and leaves pictures and TensorBoard logs. A run that was interrupted goes on where it was.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from d2kit.files import atomic_write
from s4m.data.shapes import write_shapes
from s4m.data.splits import split_name, write_splits
from s4m.evaluation.report import comparison_picture, final_metrics, format_table

ROOT = Path(__file__).resolve().parent.parent
# name: configuration, whose weights it starts from, what the table calls it
RUNS = {
    "supervised": ("shapes_supervised", None, "supervised"),
    "teacher": ("shapes_teacher", None, "S4M teacher (stage 1)"),
    "supervised_longer": ("shapes_supervised_longer", "supervised", "supervised, as many iterations"),
    "mean_teacher": ("shapes_mean_teacher", "supervised", "mean teacher"),
    "s4m": ("shapes_student", "teacher", "S4M"),
}


def write_data(folder: Path, percent: float, seed: int) -> dict[str, str]:
    """Write the shapes and the split; returns the values of DATASETS.TRAIN, UNLABELED and TEST."""
    train = write_shapes(folder / "train", 600, seed=seed)
    test = write_shapes(folder / "val", 100, seed=seed + 1000)
    write_splits(train, [percent], folds=1, seed=seed, output=folder / "splits")
    images = folder / "train" / "images"

    def name(unlabeled: bool) -> str:
        return f"coco:{folder}/splits/annotations_{split_name(percent, 0, unlabeled)}.json:{images}"

    return {"TRAIN": name(False), "UNLABELED": name(True), "TEST": f"coco:{test}:{folder}/val/images"}


def train(run: str, data: dict[str, str], output: Path, seed: int, extra: list[str]) -> float:
    """One training as a process of its own; returns its seconds."""
    config, start, _ = RUNS[run]
    options = ["OUTPUT_DIR", str(output / run), "SEED", str(seed), "DATASETS.TRAIN", f"('{data['TRAIN']}',)"]
    options += ["DATASETS.TEST", f"('{data['TEST']}',)"]
    semi = run in ("mean_teacher", "s4m")
    if semi:
        options += ["DATASETS.UNLABELED", f"('{data['UNLABELED']}',)"]
    if start:
        options += ["S4M.TEACHER.WEIGHTS" if semi else "MODEL.WEIGHTS", str(output / start / "model_final.pth")]
    command = ["tools/train_net.py", "--resume", "--config-file", f"configs/quick/{config}.yaml", *options, *extra]
    print(f"[{run}] python {shlex.join(command)}", flush=True)
    began = time.monotonic()
    with open(output / f"{run}.out", "a", encoding="utf-8") as log:
        code = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"{run} failed; the last lines of {output / run}.out say why.")
    return time.monotonic() - began


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="output/demo")
    parser.add_argument("--percent", type=float, default=5, help="labelled share of the training images")
    parser.add_argument("--seed", type=int, default=1, help="of the data, the split and the training")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every training")
    args = parser.parse_args()
    output = Path(args.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
    began = time.monotonic()
    data = write_data(output / "data", args.percent, args.seed)
    rows = {}
    for run in RUNS:
        seconds = train(run, data, output, args.seed, args.opts)
        rows[RUNS[run][2]] = {**final_metrics(output / run), "seconds": seconds}
    with atomic_write(output / "summary.json", "w") as file:
        json.dump({"seed": args.seed, "percent": args.percent, "runs": rows}, file, indent=1)
    picture = comparison_picture(
        {RUNS[run][2]: output / run for run in ("supervised", "mean_teacher", "s4m")}, data["TEST"], output
    )
    print(format_table(rows))
    print(f"{time.monotonic() - began:.0f} s in all. Look at {picture} and run: tensorboard --logdir {output}")


if __name__ == "__main__":
    main()
