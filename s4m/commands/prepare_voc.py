"""Bring PASCAL VOC 2012 instance segmentation, with --sbd that of SBD too, into COCO format, and split it.

With VOCdevkit/VOC2012 as datasets/VOC2012 and SBD's benchmark_RELEASE/dataset as datasets/sbd:

    s4m prepare-voc --voc datasets/VOC2012 --sbd datasets/sbd --percent 1 2 5 10 --allow-missing-classes

A fraction of 1 % may have no image of a rare class; then no fraction is written without --allow-missing-classes.
"""

import argparse

from s4m.commands.split import add_fold_arguments, write_fractions
from s4m.data.voc_instances import prepare_voc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--voc", required=True, help="folder with JPEGImages, SegmentationObject, ImageSets, ...")
    parser.add_argument("--sbd", help="folder with inst, train.txt and val.txt; adds the set train_aug")
    parser.add_argument("--output", help="folder of the jsons; by default 'coco' in --voc")
    parser.add_argument("--lists", nargs="*", default=["train"], help="training lists of ImageSets/Segmentation")
    parser.add_argument("--val", default="val", help="validation list, which must share no image with the others")
    parser.add_argument("--unlabeled", nargs="*", default=[], help="lists of images that need no masks")
    parser.add_argument("--percent", type=float, nargs="*", default=[], help="fractions of train_aug (else of --lists)")
    add_fold_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Write the jsons and print their paths."""
    sets = {"sbd": args.sbd, "lists": args.lists, "val": args.val, "unlabeled": args.unlabeled}
    jsons = prepare_voc(args.voc, args.output, **sets)
    written = list(jsons.values())
    training = ["train_aug"] if args.sbd else args.lists
    for name in training if args.percent else ():
        written += write_fractions(jsons[name], args, val_jsons=[jsons[args.val]])
    print(*written, sep="\n")
