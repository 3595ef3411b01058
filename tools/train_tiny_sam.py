"""Train the tiny SAM that the package carries, on synthetic scenes; a run that was stopped goes on where it was saved.

    python tools/train_tiny_sam.py --output output/tiny_sam --minutes 35
"""

import argparse
import logging
from pathlib import Path

import cv2
import torch

from s4m.sam.tiny_training import TinySamTraining, TrainingOptions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint and tiny_sam.pth")
    parser.add_argument("--minutes", type=float, default=35.0, help="wall time of the training")
    parser.add_argument("--iterations", type=int, default=0, help="length in iterations instead of minutes")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--pool", type=int, default=8000, help="scenes drawn for the training")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    options = TrainingOptions(
        output=args.output, minutes=args.minutes, iterations=args.iterations, seed=args.seed, pool=args.pool
    )
    TinySamTraining(options).run()


if __name__ == "__main__":
    main()
