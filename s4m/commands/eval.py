"""Evaluate the checkpoint MODEL.WEIGHTS of any configuration; the arguments are those of `s4m train`."""

from d2kit.launcher import add_evaluation_arguments as add_arguments
from s4m.commands.train import run

__all__ = ["add_arguments", "run"]
