#!/usr/bin/env python
"""Convert published LESPS checkpoints (ACM, ALCNet) to this project's layout, and score networks on a data set.

    python tools/convert_istd_checkpoint.py ACM_full.pth.tar ALCNet_full.pth.tar --output converted
    python tools/convert_istd_checkpoint.py converted/*.pth --evaluate datasets/sirst --split test.txt

A converted file holds the weights, the network's name and options, the normalisation and the padding rule. Scoring
takes published and converted files alike, at the images' own size, with the published conventions.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from istd.checkpoints import Recipe, load_network, predict, save_network
from istd.data.datasets import load_sirst
from istd.deploy.score import score_images
from istd.modeling import Network


def converted_name(path: Path) -> str:
    """File name of the converted file: without .tar, ending in .pth."""
    return path.name.removesuffix(".tar").removesuffix(".pth") + ".pth"


def score(network: Network, recipe: Recipe, records: Sequence[dict]) -> dict:
    """Metrics of a network over the images of `load_sirst`."""
    return score_images(partial(predict, network, recipe), records, recipe.depth, recipe.threshold)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="published or converted checkpoints")
    parser.add_argument("--output", type=Path, help="folder for the converted files")
    parser.add_argument(
        "--evaluate", type=Path, metavar="FOLDER", help="SIRST-style folder: images, masks, split files"
    )
    parser.add_argument("--split", default="test.txt", help="split file of that folder")
    parser.add_argument("--limit", type=int, default=0, help="score only the first images of the split")
    options = parser.parse_args(arguments)
    if options.output is None and options.evaluate is None:
        parser.error("nothing to do: give --output, --evaluate or both.")
    records = None
    if options.evaluate is not None:
        records = load_sirst(options.evaluate, options.split, points="", on_mismatch="skip")
        records = records[: options.limit or None]
        print(f"{'file':32} images    IoU   nIoU     Pd     Fa    AUC")
    for path in options.files:
        network, recipe = load_network(path, "the command line")
        if options.output is not None:
            save_network(options.output / converted_name(path), network, recipe)
        if records is not None:
            result = score(network, recipe, records)
            figures = " ".join(f"{result[name]:6.2f}" for name in ("IoU", "nIoU", "Pd", "Fa"))
            print(f"{path.name:32} {len(records):6} {figures} {result['AUC']:6.4f}", flush=True)


if __name__ == "__main__":
    main()
