#!/usr/bin/env python
"""Point-supervised ISTD on synthetic infrared scenes, from nothing to a table, on a CPU.

python tools/demo_istd.py --output output/demo-istd [--seed 1] [--vfm NAME FILE] [--schemes full pal semantic_prior]
Trains each scheme by tools/train_net.py, two at a time, prints IoU, nIoU, Pd and Fa on the test scenes and leaves a
picture of label evolution. A run that was interrupted goes on where it was.

The foundation model: with --vfm a timm ViT and the local file of its weights. Without it a tiny ViT with untrained,
seeded weights stands in, because no weights are shipped: it shows that the whole method runs, not what a trained
model's semantics bring. Its tokens still tell bright crops from dark and smooth from busy, no more.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from d2kit.files import atomic_write, write_png
from istd.data.datasets import load_sirst
from istd.data.synthetic import write_scenes
from istd.engine.pictures import evolution_picture

ROOT = Path(__file__).resolve().parent.parent
SCHEMES = ("full", "lesps", "pal", "semantic_prior")
COLUMNS = ("IoU", "nIoU", "Pd", "Fa")


def train(scheme: str, args: argparse.Namespace) -> float:
    """One training as a process of its own; returns its seconds."""
    output, data = args.output / scheme, args.output / "data"
    options = ["OUTPUT_DIR", output, "SEED", args.seed]
    for key, split in (("TRAIN", "train"), ("VALIDATION", "val"), ("TEST", "test")):
        options += [f"DATASETS.{key}", f"('sirst:{data}:{split}.txt',)"]
    if args.vfm and scheme == "semantic_prior":
        options += ["ISTD.VFM.NAME", args.vfm[0], "ISTD.VFM.CHECKPOINT", Path(args.vfm[1]).resolve()]
    config = f"configs/quick/istd_{scheme}.yaml"
    command = ["tools/train_net.py", "--resume", "--config-file", config, *map(str, options), *args.opts]
    print(f"[{scheme}] python {shlex.join(command)}", flush=True)
    began = time.monotonic()
    with open(args.output / f"{scheme}.out", "a", encoding="utf-8") as log:
        code = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"{scheme} failed; the last lines of {args.output / scheme}.out say why.")
    return time.monotonic() - began


def rows_of(scheme: str, output: Path, seconds: float) -> dict[str, dict]:
    """The student's figures and, where it differs, the teacher's, by the name that the table gives them."""
    results = json.loads((output / scheme / "test" / "results.json").read_text(encoding="utf-8"))["results"]
    rows = {}
    for task, name in (("istd", scheme), ("istd_teacher", f"{scheme}, teacher")):
        found = {key.rpartition("/")[2]: value for key, value in results.items() if key.split("/")[-2] == task}
        if found:
            rows[name] = {column: found[column] for column in COLUMNS} | {"seconds": seconds}
    return rows


def format_table(rows: dict[str, dict]) -> str:
    """Text table; IoU, nIoU and Pd in %, Fa in 1e-6."""
    width = max(map(len, rows))
    lines = [" ".join([" " * width, *(f"{name:>8}" for name in (*COLUMNS, "seconds"))])]
    for name, row in rows.items():
        cells = (f"{row[column]:8.2f}" if row[column] is not None else " " * 8 for column in (*COLUMNS, "seconds"))
        lines.append(" ".join([name.ljust(width), *cells]))
    return "\n".join(lines)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/demo-istd"))
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=["semantic_prior", "pal", "full"])
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="of the scenes and the trainings")
    parser.add_argument("--vfm", nargs=2, metavar=("NAME", "FILE"), help="timm ViT and the local file of its weights")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for every training, last")
    args = parser.parse_args()
    args.output = args.output.resolve()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began, data = time.monotonic(), args.output / "data"
    if not (data / "test.txt").is_file():
        write_scenes(data, args.scenes, seed=args.seed)
    with ThreadPoolExecutor(max(1, args.jobs)) as pool:
        seconds = list(pool.map(lambda scheme: train(scheme, args), args.schemes))
    rows = {}
    for scheme, took in zip(args.schemes, seconds, strict=True):
        rows |= rows_of(scheme, args.output, took)
    with atomic_write(args.output / "summary.json", "w") as file:
        json.dump(
            {"seed": args.seed, "scenes": args.scenes, "vfm": args.vfm or "untrained", "runs": rows}, file, indent=1
        )
    print(format_table(rows))
    for scheme in (scheme for scheme in args.schemes if scheme != "full"):
        picture = args.output / f"evolution_{scheme}.png"
        write_png(picture, evolution_picture(args.output / scheme / "pseudo_masks", load_sirst(data, "train.txt")))
        print(f"Label evolution: {picture}")
    print(f"{time.monotonic() - began:.0f} s in all. TensorBoard: tensorboard --logdir {args.output}")


if __name__ == "__main__":
    main()
