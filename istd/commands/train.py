r"""Train a network of ISTD with one of the schemes; most arguments are Detectron2's.

    istd train --config-file istd/networks/alcnet.yaml --overlay istd/schemes/regions.yaml OUTPUT_DIR output/alcnet

Configuration files are paths or names of shipped files. With MODEL.DEVICE cpu, --num-gpus is the number of processes.
"""

import argparse

from d2kit.launcher import TrainingSetup, add_arguments, launch_training
from istd import add_istd_config
from istd.data.datasets import resolve_config_datasets
from istd.engine.trainer import ISTDTrainer
from istd.ranges import ISTD_VALUES

__all__ = ["TRAINING", "add_arguments", "run"]

TRAINING = TrainingSetup("istd", add_istd_config, ISTD_VALUES, ISTDTrainer, resolve_config_datasets)


def run(args: argparse.Namespace) -> None:
    """Train or evaluate."""
    launch_training(TRAINING, args)
