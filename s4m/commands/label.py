r"""Label a folder of images by the network of a training, with SAM's refinement and calibrated confidence.

    s4m label --run output/stage1 --images data/more_images --output labels

The best checkpoint of the run labels, or the newest one where there is none. The file labels/labels.json is in COCO
format; beside COCO's fields each object has score, confidence, sam_quality, agreement, refined and
teacher_segmentation. A labeling that was killed goes on where it stopped. With --shard 1/4, ..., 4/4 four machines
share the images; the last one to end merges the shards in --output, and so does any of these commands that is run
again. Images that cannot be read are named and left out; the exit status is then 1. KEY VALUE pairs change the run's
configuration, for example S4M.SELECTION.SCORE 0.5.
"""

import argparse
import re
import sys

from tqdm import tqdm

from d2kit.run_folder import checkpoint_to_use
from s4m.labeling.run import Labeled, label_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--run", required=True, help="folder that a training wrote")
    parser.add_argument("--images", required=True, help="folder of the images, with its subfolders")
    parser.add_argument("--output", required=True, help="folder of labels.json")
    parser.add_argument("--network", choices=("teacher", "student"), default="teacher", help="default: teacher")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="label part I of N, counted from 1")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration keys, last of all")


def parse_shard(text: str) -> tuple[int, int]:
    """Return the number and the count of a shard I/N.

    Raises:
        argparse.ArgumentError: the text is something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise argparse.ArgumentError(None, f"--shard must be I/N with 1 <= I <= N, not '{text}'.")
    return number, count


def describe(labeled: Labeled) -> str:
    """Tell which network labeled, and what the confidence is."""
    calibration = labeled.info["calibration"]
    confidence = {
        "none": "the confidence is the score, because S4M.CALIBRATION.ENABLED is False",
        "checkpoint": "the confidence is calibrated as in the checkpoint",
        "labeled images": f"the confidence is fitted to {calibration['samples']} pseudo-labels of labeled images",
    }[calibration["source"]]
    return f"labeled by the {labeled.info['network']} network; {confidence}"


def run(args: argparse.Namespace) -> int:
    """Label, print the path of the json, and return the exit status, which is 1 if an image was left out."""

    def watch(images, done):
        return tqdm(images, desc="images", unit="image", initial=done, total=done + len(images))

    shard = parse_shard(args.shard)
    print(f"checkpoint: {checkpoint_to_use(args.run)}")
    labeled = label_folder(
        args.run,
        args.images,
        args.output,
        network=args.network,
        shard=shard,
        options=args.opts,
        watch=watch,
    )
    print(describe(labeled), labeled.path, sep="\n")
    for name in labeled.info["left_out"]:
        print(f"left out {name}: {labeled.failed.get(name, 'it cannot be read')}", file=sys.stderr)
    return int(bool(labeled.info["left_out"]))
