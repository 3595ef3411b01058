"""Write the student or the teacher of a training as a file that needs nothing of its training.

    s4m export --run output/stage2 --output exported/student.onnx
    s4m export --run output/stage2 --output exported/student.pth --network teacher

The extension of --output decides:

    .onnx         Mask R-CNN for `s4m predict --model`, which needs neither PyTorch nor Detectron2
    .pth          a Mask R-CNN of Detectron2's own, with a .yaml beside it that names the file and the classes
    .safetensors  weights alone
    none          a folder with model.safetensors and config.json, as on the Hugging Face hub

--run takes the best checkpoint of a training, or else its newest. --checkpoint and --config-file name others.
"""

import argparse
import json
from pathlib import Path

from detectron2.config import CfgNode

from d2kit.config_files import compose_config
from d2kit.files import atomic_write, load_weights
from s4m import add_s4m_config
from s4m.deploy.export import export_folder, export_onnx, export_weights, make_recipe, plain_config
from s4m.deploy.predictor import S4MPredictor, class_names_of, run_config

FORMATS = (".onnx", ".pth", ".safetensors", "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--run", help="OUTPUT_DIR of a training")
    parser.add_argument("--checkpoint", help="file that a training wrote")
    parser.add_argument("--config-file", help="configuration of the training of --checkpoint, such as its config.yaml")
    parser.add_argument("--output", required=True, help="file or folder to write")
    parser.add_argument("--network", choices=("student", "teacher"), default="student")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="default: the training's own")


def run(args: argparse.Namespace) -> None:
    """Write the file or files and print their paths."""
    suffix = Path(args.output).suffix
    if suffix not in FORMATS:
        known = ", ".join(FORMATS[:-1])
        raise ValueError(f"--output '{args.output}': a network is exported as {known}, or as a folder.")
    if bool(args.run) == bool(args.checkpoint):
        raise argparse.ArgumentError(None, "give either --run or --checkpoint.")
    if args.config_file and not args.checkpoint:
        raise argparse.ArgumentError(None, "--config-file belongs to --checkpoint.")
    cfg = run_config(args.run) if args.run else None
    if args.config_file and args.checkpoint:
        cfg = compose_config([args.config_file], add_keys=[add_s4m_config])
        cfg.MODEL.WEIGHTS = args.checkpoint
    checkpoint = cfg.MODEL.WEIGHTS if cfg else args.checkpoint
    if suffix in (".onnx", "") and cfg is None:
        raise ValueError(f"--output '{args.output}' needs --run, or --config-file beside --checkpoint.")
    if suffix in (".onnx", ""):
        predictor = S4MPredictor(cfg, args.network, args.classes or ())
        recipe = make_recipe(cfg, predictor.class_names)
    if suffix == ".onnx":
        export_onnx(predictor.model, recipe, args.output)
    elif suffix == "":
        export_folder(checkpoint, args.network, cfg.S4M.STUDENT, recipe, args.output)
    elif suffix == ".pth" and cfg is not None:
        _export_plain(cfg, args)
    else:
        export_weights(checkpoint, args.network, args.output)
    print(args.output)


def _export_plain(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Write weights and their configuration; Detectron2 has no key for the names of classes, so a comment has them."""
    weights = Path(args.output).absolute()
    plain = plain_config(cfg, str(weights))
    checkpoint = load_weights(cfg.MODEL.WEIGHTS, "--checkpoint")
    names = list(args.classes or class_names_of(cfg, checkpoint))
    export_weights(cfg.MODEL.WEIGHTS, args.network, weights)
    path = weights.with_suffix(".yaml")
    with atomic_write(path, "w") as file:
        file.write(f"# classes: {json.dumps(names)}\n{plain.dump()}")
    print(path)
