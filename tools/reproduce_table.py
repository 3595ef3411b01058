#!/usr/bin/env python
"""Train rows of the method's table (networks x schemes x seeds) and write table.md and table.json.

python tools/reproduce_table.py --output output/table --data datasets/sirst --networks mshnet dnanet \\
    --schemes full semantic_prior --seeds 1 2 3 --jobs 4 --opts ISTD.SCHEDULE.EPOCHS 100
python tools/reproduce_table.py --output output/scale --scenes 300 --networks mshnet --schemes semantic_prior \\
    --sweep ISTD.SCAM.SCALE 0.05 0.12 0.3 0.6 --opts ISTD.VFM.CHECKPOINT random     # one row a value
Every run is tools/train_net.py with configs/istd/<network>_<scheme>.yaml, in a folder and a process of its own. The
same command again goes on with what was interrupted and skips what is finished. A run that fails is named, the rest
goes on.
A sweep names the value that is best on the validation images; the test set takes no part in that.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from d2kit.processes import exit_on_sigterm
from istd.data.synthetic import write_scenes
from istd.engine.table import NETWORKS, SCHEMES, Table, plan


def data_options(folder: Path) -> list[str]:
    """The options that make a SIRST-style folder the data."""
    pairs = (("TRAIN", "train.txt"), ("VALIDATION", "val.txt"), ("TEST", "test.txt:on_mismatch=skip"))
    return [item for key, split in pairs for item in (f"DATASETS.{key}", f"('sirst:{folder.resolve()}:{split}',)")]


def synthetic_scenes(folder: Path, count: int) -> Path:
    """The folder of `count` synthetic scenes, written unless it is there."""
    if not folder.is_dir():
        half = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(half, ignore_errors=True)
        write_scenes(half, count, seed=1)
        half.rename(folder)
    return folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parsed arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help="SIRST-style folder (default: what the configurations name)")
    source.add_argument("--scenes", type=int, help="synthetic scenes, written to OUTPUT/scenes<COUNT>")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=("full", "semantic_prior"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--sweep", nargs="+", metavar=("KEY", "VALUE"), default=[], help="a row for each value of a key"
    )
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for every training, last")
    args = parser.parse_args(argv)
    if len(args.sweep) == 1:
        parser.error("--sweep takes a key and at least one value")
    return args


def main() -> None:
    """Run everything; the exit status is 1 where a run failed."""
    args, began = parse(), time.monotonic()
    exit_on_sigterm()
    data = synthetic_scenes(args.output / f"scenes{args.scenes}", args.scenes) if args.scenes else args.data
    options = [*(data_options(data) if data else []), *args.opts]
    table = Table(args.output, plan(args.networks, args.schemes, args.seeds, args.sweep), options, args.threads)
    failed = table.run(args.jobs)
    print((args.output / "table.md").read_text(encoding="utf-8"))
    print(
        f"{time.monotonic() - began:.0f} s{os.linesep}Table: {args.output / 'table.md'}, {args.output / 'table.json'}"
    )
    if failed:
        sys.exit(f"{len(failed)} of {len(table.runs)} trainings failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
