"""Cluster the training images of a data set for dynamic collaborative learning.

istd clusters sirst:/data/own:train.txt --assign sirst:/data/own:val.txt --output clusters.json
"""

import argparse
from functools import partial

from istd.data.clusters import make_clusters
from istd.data.images import read_infrared
from istd.data.sensor import RANGES
from istd.engine.data import load_groups


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("datasets", nargs="+", help="registered names or sirst:ROOT:SPLIT; training splits only")
    parser.add_argument("--assign", nargs="*", default=[], help="validation splits, which take the nearest clusters")
    parser.add_argument("--output", required=True, help="json file to write")
    parser.add_argument("--clusters", type=int, default=0, help="number of clusters (default: by the number of images)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the clustering (default: 0)")
    parser.add_argument("--range", default=RANGES[0], help="range of raw values, as ISTD.INPUT.RANGE in training")


def run(args: argparse.Namespace) -> None:
    """Write the cluster table."""
    if args.clusters < 0:
        raise ValueError(f"--clusters must be 0 or more, not {args.clusters}.")
    fitted, assigned = load_groups({"datasets": args.datasets, "--assign": args.assign})
    table = make_clusters(
        fitted,
        partial(read_infrared, value_range=args.range),
        assigned=assigned,
        num_clusters=args.clusters,
        seed=args.seed,
    )
    table.save(args.output)
    print(f"{len(table)} images in {table.num_clusters} clusters: {args.output}")
