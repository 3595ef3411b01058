"""Bring PASCAL VOC 2012 instance segmentation, with SBD if it is there, into COCO format, and split it.

Example, with VOCdevkit/VOC2012 as datasets/VOC2012 and SBD's benchmark_RELEASE/dataset as datasets/sbd:
    python tools/prepare_voc.py --voc datasets/VOC2012 --sbd datasets/sbd --percent 1 2 5 10 --allow-missing-classes

Without --allow-missing-classes no fraction is written if one of some fold has no image of a class, as a fraction of 1 %
may well have none of a rare one.
"""

import argparse
import sys
from collections.abc import Sequence

from s4m.data.splits import write_splits
from s4m.data.voc_instances import prepare_voc


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", required=True, help="folder with JPEGImages, SegmentationObject, ImageSets, ...")
    parser.add_argument("--sbd", help="folder with inst, train.txt and val.txt; adds the set train_aug")
    parser.add_argument("--output", help="folder of the jsons; by default 'coco' in --voc")
    parser.add_argument("--lists", nargs="*", default=["train"], help="training lists of ImageSets/Segmentation")
    parser.add_argument("--val", default="val", help="validation list, which must share no image with the others")
    parser.add_argument("--unlabeled", nargs="*", default=[], help="lists of images that need no masks")
    parser.add_argument("--percent", type=float, nargs="*", default=[], help="fractions of train_aug (else of --lists)")
    parser.add_argument("--folds", type=int, default=5, help="independent random orders, numbered from 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-missing-classes", action="store_true", help="go on when a fraction misses a class")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    options = {"sbd": args.sbd, "lists": args.lists, "val": args.val, "unlabeled": args.unlabeled}
    try:
        jsons = prepare_voc(args.voc, args.output, **options)
        written = list(jsons.values())
        for key in (["train_aug"] if args.sbd else args.lists) if args.percent else []:
            written += write_splits(
                jsons[key],
                args.percent,
                args.folds,
                args.seed,
                val_jsons=[jsons[args.val]],
                allow_missing_classes=args.allow_missing_classes,
            )
    except (OSError, ValueError) as error:
        sys.exit(f"prepare_voc: {error}")
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
