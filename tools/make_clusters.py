"""Cluster the training images of a data set for dynamic collaborative learning.

Example: python tools/make_clusters.py sirst:/data/own:train.txt --assign sirst:/data/own:val.txt --output clusters.json
"""

import argparse
import sys

from detectron2.data import DatasetCatalog

from istd.data.clusters import make_clusters
from istd.data.datasets import resolve_datasets
from istd.data.images import DEPTHS, read_infrared


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="registered names or sirst:ROOT:SPLIT; training splits only")
    parser.add_argument("--assign", nargs="*", default=[], help="splits (validation) that only take the nearest")
    parser.add_argument("--output", required=True, help="json file to write")
    parser.add_argument("--clusters", type=int, default=0, help="number of clusters; 0: follows the images (default)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--depth", choices=DEPTHS, default="range", help="scale of 16-bit files, as in training")
    return parser.parse_args(arguments)


def read_dicts(names: list[str]) -> list[dict]:
    """Records of all named data sets."""
    return [record for name in resolve_datasets(names) for record in DatasetCatalog.get(name)]


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        if options.clusters < 0:
            raise ValueError(f"--clusters must be 0 or more, not {options.clusters}.")
        table = make_clusters(
            read_dicts(options.datasets),
            lambda file_name: read_infrared(file_name, options.depth),
            assigned=read_dicts(options.assign),
            num_clusters=options.clusters,
            seed=options.seed,
        )
        table.save(options.output)
    except (ValueError, KeyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(table)} images in {table.num_clusters} clusters: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
