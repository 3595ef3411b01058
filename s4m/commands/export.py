"""Write the student or the teacher of a trained Mask R-CNN as a network of Detectron2.

    s4m export --checkpoint output/demo/s4m/model_final.pth --output exported/student.pth \\
        --config-file output/demo/s4m/config.yaml

With --config-file, the command also writes exported/student.yaml: `get_cfg()`, `merge_from_file` and DefaultPredictor
need nothing of this project.
"""

import argparse
import os

from d2kit.config_files import compose_config
from d2kit.files import atomic_write
from s4m import add_s4m_config
from s4m.engine.export import export_weights, plain_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--checkpoint", required=True, help="file that training wrote")
    parser.add_argument("--output", required=True, help="file to write, .pth")
    parser.add_argument("--network", choices=("student", "teacher"), default="student")
    parser.add_argument("--config-file", help="configuration of the training, for example its config.yaml")


def run(args: argparse.Namespace) -> None:
    """Write the weights and, with --config-file, the configuration; print the paths."""
    plain = None
    if args.config_file:
        plain = plain_config(compose_config([args.config_file], add_keys=[add_s4m_config]), args.output)
    export_weights(args.checkpoint, args.network, args.output)
    print(args.output)
    if plain is not None:
        path = f"{os.path.splitext(args.output)[0]}.yaml"
        with atomic_write(path, "w") as file:
            file.write(plain.dump())
        print(path)
