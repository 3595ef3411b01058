"""The console command `s4m`."""

from collections.abc import Sequence

from d2kit.commands import run_program

COMMANDS = {
    "train": "Train stage 1 or stage 2.",
    "eval": "Evaluate a trained network.",
    "predict": "Find the instances in images, folders and videos.",
    "label": "Label a folder of images by a trained network and SAM.",
    "export-labels": "Write labels for Label Studio or YOLO.",
    "report": "Write what trainings did as a page of HTML.",
    "browse": "Write what training makes of images as a page of HTML.",
    "check": "Check data sets before training, and tell all their faults.",
    "split": "Split a COCO json into labeled fractions and the unlabeled rest.",
    "tiles": "Cut the images and masks of a COCO json into tiles.",
    "prepare-voc": "Bring PASCAL VOC 2012, with SBD, into COCO format.",
    "prepare-cityscapes": "Bring Cityscapes into COCO format.",
    "audit": "Review labels in a browser, sorted by doubt, and write the audited labels.",
    "export": "Write a trained network as a file that Detectron2 alone reads.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `s4m COMMAND ...`; returns the exit status."""
    return run_program("s4m", "Semi-supervised instance segmentation with SAM.", COMMANDS, arguments)
