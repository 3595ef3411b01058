"""Write a trained Mask R-CNN, the student or the teacher, as Detectron2's own.

    s4m export --checkpoint output/demo/s4m/model_final.pth --output exported/student.pth \\
        --config-file output/demo/s4m/config.yaml

With --config-file, exported/student.yaml is written too: `get_cfg()`, `merge_from_file` and DefaultPredictor need
nothing of this project.
"""

import argparse

from d2kit.config_files import compose_config
from s4m import add_s4m_config
from s4m.engine.export import export_config, export_weights, plain_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--checkpoint", required=True, help="file that training wrote")
    parser.add_argument("--output", required=True, help="file to write, .pth")
    parser.add_argument("--network", choices=("student", "teacher"), default="student")
    parser.add_argument("--config-file", help="configuration of the training; its config.yaml will do")


def run(args: argparse.Namespace) -> None:
    """Write weights, and the configuration where there is one; print the paths."""
    cfg = compose_config([args.config_file], add_keys=[add_s4m_config]) if args.config_file else None
    if cfg is not None:
        plain_config(cfg, args.output)  # refuses before anything is written
    export_weights(args.checkpoint, args.network, args.output)
    print(args.output)
    if cfg is not None:
        print(export_config(cfg, args.output))
