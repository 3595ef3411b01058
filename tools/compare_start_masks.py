#!/usr/bin/env python
"""Compare rules for the first mask of a point with true masks, and print a table: rules by sets, IoU in %.

python tools/compare_start_masks.py sirst:datasets/sirst:train.txt sirst:datasets/sirst:test.txt:on_mismatch=skip \\
    --scenes 120 --blur 0 1 2 --fit 5 10 --draws 50
The IoU is over all pixels of a set. Rows "N true masks" fit the gain of the regions to N random images and score the
others: mean ± standard deviation over the draws. Synthetic scenes have optics of the given blurs.
"""

import argparse

from detectron2.data import DatasetCatalog

from experiments.start_masks import blurred_scenes, calibrated_ious, read_samples, rule_ious
from experiments.table import markdown, spread
from istd.data.datasets import resolve_datasets


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", metavar="sirst:ROOT:SPLIT", help="data sets with points and masks")
    parser.add_argument("--scenes", type=int, default=0, help="synthetic scenes for each blur (default: none)")
    parser.add_argument("--blur", type=float, nargs="+", default=[0.0, 1.0, 2.0], help="sigmas of optics in pixels")
    parser.add_argument("--fit", type=int, nargs="*", default=[5, 10], help="numbers of true masks to fit the gain to")
    parser.add_argument("--draws", type=int, default=20, help="random choices of these masks")
    args = parser.parse_args(argv)
    if not args.datasets and not args.scenes:
        parser.error("name a data set, or a number of --scenes")
    return args


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    args = parse(argv)
    sets = {name: read_samples(DatasetCatalog.get(name)) for name in resolve_datasets(args.datasets)}
    if args.scenes:
        sets.update({f"scenes, blur {sigma:g}": blurred_scenes(args.scenes, sigma) for sigma in args.blur})
    for name, samples in sets.items():
        if not samples:
            raise SystemExit(f"{name} has no image with points and a mask.")
    columns = []
    for samples in sets.values():
        column = {rule: f"{value:.1f}" for rule, value in rule_ious(samples).items()}
        for count in args.fit:
            column[f"{count} true masks"] = spread(calibrated_ious(samples, count, args.draws))
        columns.append(column)
    rows = [[rule, *(column[rule] for column in columns)] for rule in columns[0]]
    print(markdown(["rule", *(f"{name} ({len(samples)})" for name, samples in sets.items())], rows))


if __name__ == "__main__":
    main()
