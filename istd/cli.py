"""The console command `istd`."""

from collections.abc import Sequence

from d2kit.commands import run_program

COMMANDS = {
    "train": "Train a network with one of the schemes.",
    "eval": "Evaluate a trained network.",
    "report": "Write what trainings did as a page of HTML.",
    "check": "Find every fault of data sets before a training starts.",
    "points": "Make one point per target from masks.",
    "audit": "Review points and pseudo-masks in a browser, and write the reviewed ones.",
    "clusters": "Cluster training images for the clustered outer step.",
    "export": "Write a trained network as ONNX, TorchScript or plain weights.",
    "detect": "Detect targets in images, folders and videos.",
    "roc": "Plot ROC curves of evaluations.",
    "convert": "Convert published LESPS checkpoints and score networks.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `istd COMMAND ...` and return the exit status."""
    return run_program("istd", "Point-supervised infrared small target detection.", COMMANDS, arguments)
