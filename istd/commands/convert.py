"""Convert published LESPS checkpoints (ACM, ALCNet) to this project's layout, and score networks on a data set.

    istd convert ACM_full.pth.tar ALCNet_full.pth.tar --output converted
    istd convert converted/*.pth --evaluate datasets/sirst --split test.txt

A converted file holds the weights, the network's name and options, the normalization and the padding rule. Published
and converted files are scored alike, at the images' own size, with the published conventions.
"""

import argparse
from pathlib import Path

from istd.checkpoints import load_network, save_network
from istd.data.datasets import load_sirst
from istd.deploy.runners import run_network
from istd.deploy.score import score_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("files", nargs="+", type=Path, help="published or converted checkpoints")
    parser.add_argument("--output", type=Path, help="folder for the converted files")
    parser.add_argument("--evaluate", type=Path, metavar="FOLDER", help="SIRST-style folder: images, masks, splits")
    parser.add_argument("--split", default="test.txt", help="split file of that folder")
    parser.add_argument("--limit", type=int, default=0, help="score only the first images of the split")


def run(args: argparse.Namespace) -> None:
    """Convert, score, or both."""
    if args.output is None and args.evaluate is None:
        raise argparse.ArgumentError(None, "nothing to do: give --output, --evaluate or both.")
    if args.evaluate is not None:
        records = load_sirst(args.evaluate, args.split, points="", on_mismatch="skip")[: args.limit or None]
        print(f"{'file':32} images    IoU   nIoU     Pd     Fa    AUC")
    for path in args.files:
        network, recipe = load_network(path, "the command line")
        if args.output is not None:
            save_network(args.output / f"{path.name.removesuffix('.tar').removesuffix('.pth')}.pth", network, recipe)
        if args.evaluate is not None:
            scores = score_images(run_network(network, recipe), records)
            figures = " ".join(f"{scores[name]:6.2f}" for name in ("IoU", "nIoU", "Pd", "Fa"))
            print(f"{path.name:32} {len(records):6} {figures} {scores['AUC']:6.4f}", flush=True)
