"""Evaluate the checkpoint MODEL.WEIGHTS of any configuration; the arguments are those of `istd train`."""

from d2kit.launcher import add_evaluation_arguments as add_arguments
from istd.commands.train import run

__all__ = ["add_arguments", "run"]
