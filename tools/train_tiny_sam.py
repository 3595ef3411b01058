"""Train the tiny SAM that the package carries, on synthetic scenes, and measure it on held-out ones.

    python tools/train_tiny_sam.py --output output/tiny_sam --minutes 35

This leaves tiny_sam.pth (averaged weights, fp16) and tiny_sam.json (how they were made and how good they are) there.
A run that was stopped goes on where it was saved.
"""

import argparse
import json
import logging
import os
import shlex
import sys
from pathlib import Path

import cv2
import torch

from d2kit.commands import run_command
from d2kit.files import atomic_write
from s4m.sam import build_segmenter
from tiny_sam.quality import HELD_OUT_SEED, measure
from tiny_sam.training import TinySamTraining


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the tool."""
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint and of the results")
    parser.add_argument("--minutes", type=float, default=35.0, help="wall time of the training")
    parser.add_argument("--iterations", type=int, default=0, help="repeatable length instead of minutes")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--pool", type=int, default=8000, help="scenes drawn for the training")
    parser.add_argument("--held-out", type=int, default=200, help="scenes drawn for the measurement")
    parser.add_argument("--images", type=int, default=12, help="images a step, with 6 prompts each")
    parser.add_argument("--rate", type=float, default=1.2e-3, help="learning rate at its height")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead")
    parser.add_argument("--threads", type=int, default=2)


def run(args: argparse.Namespace) -> None:
    """Train, measure and write the results."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    training = TinySamTraining(args)
    training.run()
    segmenter = build_segmenter("tiny", str(args.output / "tiny_sam.pth"))
    cores = min(args.threads, os.cpu_count() or 1)
    machine = f"{cores} CPU core{'s' * (cores > 1)}"
    if args.device.startswith("cuda"):
        machine = f"one {torch.cuda.get_device_name(args.device)}, {args.workers} CPU cores"
    facts = {
        "command": shlex.join(["python", "tools/train_tiny_sam.py", *sys.argv[1:]]),
        "seed": args.seed,
        "iterations": training.iteration,
        "minutes": round(training.seconds / 60, 1),
        "machine": machine,
        "parameters": sum(p.numel() for p in segmenter.network.parameters()),
        "held_out": {"seed": HELD_OUT_SEED, "images": args.held_out, **measure(segmenter, args.held_out)},
    }
    with atomic_write(args.output / "tiny_sam.json", "w") as file:
        json.dump(facts, file, indent=2)
    logging.info("%s", json.dumps(facts["held_out"]))


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__]))
