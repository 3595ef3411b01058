r"""Train stage 1 or stage 2 of S4M; most arguments are Detectron2's.

    s4m train --config-file quick/shapes_stage1.yaml OUTPUT_DIR output/stage1
    s4m train --config-file quick/shapes_stage2.yaml --overlay quick/overlays/vit.yaml --resume

A configuration file is a path or the name of a shipped file. With MODEL.DEVICE cpu, --num-gpus counts processes.
"""

import argparse

from d2kit.launcher import TrainingSetup, add_arguments, launch_training
from s4m import add_s4m_config
from s4m.data.datasets_by_path import resolve_config_datasets
from s4m.engine.schedule import scale_schedule
from s4m.engine.trainer import S4MTrainer
from s4m.ranges import S4M_VALUES

__all__ = ["TRAINING", "add_arguments", "run"]

TRAINING = TrainingSetup("s4m", add_s4m_config, S4M_VALUES, S4MTrainer, resolve_config_datasets, scale_schedule)


def run(args: argparse.Namespace) -> None:
    """Train or evaluate."""
    launch_training(TRAINING, args)
