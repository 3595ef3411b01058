"""Measure how many faults that are put into true labels an audit ranks among its first rows.

python tools/audit_faults.py --json val.json --predictions coco_instances_results.json --seeds 1 2 3
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from experiments.label_faults import KINDS, found, inject
from s4m.audit.rank import rank
from s4m.data.coco import validate_coco


def main(arguments: list[str] | None = None) -> None:
    """Print the share of the faults that is found, of each kind and together, for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="COCO json of true labels with RLE")
    parser.add_argument("--predictions", required=True, help="COCO results of a network on the same images")
    parser.add_argument("--faults", type=int, default=60, help="number of faults")
    parser.add_argument("--first", type=int, default=100, help="number of rows that are looked at")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="seeds of the faults")
    args = parser.parse_args(arguments)
    true = validate_coco(args.json)["annotations"]
    predicted = json.loads(Path(args.predictions).read_text(encoding="utf-8"))
    shares = []
    for seed in args.seeds:
        given, faults = inject(true, args.faults, seed)
        hits = found(faults, rank(given, predicted)[: args.first], given, predicted)
        counts, good = Counter(fault.kind for fault in faults), Counter()
        good.update(fault.kind for fault, hit in zip(faults, hits, strict=True) if hit)
        shares.append(np.mean(hits))
        kinds = ", ".join(f"{kind} {good[kind]} of {counts[kind]}" for kind in KINDS if counts[kind])
        print(f"seed {seed}: {sum(hits)} of {len(hits)} faults among the first {args.first} rows ({kinds})")
    print(f"mean {np.mean(shares):.3f}, least {np.min(shares):.3f}")


if __name__ == "__main__":
    main()
