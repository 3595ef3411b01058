"""Evaluate the checkpoint MODEL.WEIGHTS of any configuration; the arguments are those of `istd train`."""

import argparse

from istd.commands import train
from istd.commands.train import run

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of training, which evaluates only."""
    train.add_arguments(parser)
    parser.set_defaults(eval_only=True)
