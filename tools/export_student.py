#!/usr/bin/env python
r"""Write a trained student in a form that needs nothing of its training.

S4M: a checkpoint of Detectron2's own Mask R-CNN (of the student or the teacher).

    python tools/export_student.py --checkpoint output/demo/s4m/model_final.pth --output exported/student.pth \
        --config-file output/demo/s4m/config.yaml

With --config-file, exported/student.yaml is written too: `get_cfg()`, `merge_from_file` and DefaultPredictor need
nothing of this project.

ISTD: ONNX, TorchScript (.pt) or the network's weights alone (.pth), for images of any size; the file says how the
network is fed. --int8 adds an int8 form, calibrated on images of DATASETS.TRAIN or --calibrate; --evaluate scores all
forms beside PyTorch, which gives the IoU that 8 bits cost.

    python tools/export_student.py --config-file output/run/config.yaml --checkpoint output/run/model_best.pth \
        --output student.onnx student.pt --int8 student_int8.onnx --evaluate sirst:DATA/sirst:test.txt

Files of one ISTD network (tools/convert_istd_checkpoint.py, published LESPS files) need no --config-file.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from detectron2.config import CfgNode, get_cfg

from d2kit.files import atomic_write
from istd import add_istd_config
from istd.checkpoints import load_network, load_student
from istd.data.images import read_infrared
from istd.deploy.export import export_student
from istd.deploy.quantize import quantise
from istd.deploy.runners import open_model, run_network
from istd.deploy.score import compare_runners
from istd.engine.data import load_datasets
from s4m import add_s4m_config
from s4m.engine.export import export_config, export_weights, plain_config


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="file that training wrote")
    parser.add_argument("--output", required=True, nargs="+", help="file to write, .pth; ISTD: .onnx, .pt, .pth")
    parser.add_argument("--network", choices=("student", "teacher"), default="student")
    parser.add_argument("--config-file", help="configuration of the training; its config.yaml will do")
    group = parser.add_argument_group("ISTD")
    group.add_argument("--int8", metavar="FILE", help="int8 form of the .onnx file among --output")
    group.add_argument("--calibrate", nargs="+", default=[], metavar="DATASET", help="training images for --int8")
    group.add_argument("--calibration-images", type=int, default=64, help="at most as many (default: 64)")
    group.add_argument("--evaluate", nargs="+", default=[], metavar="DATASET", help="score every form on these images")
    group.add_argument("--report", help="json file for the scores")
    return parser.parse_args(arguments)


def read_config(path: str | None) -> CfgNode | None:
    """The configuration of a training; tools/train_net.py writes the keys of both packages."""
    if path is None:
        return None
    cfg = get_cfg()
    add_s4m_config(cfg)
    add_istd_config(cfg)
    cfg.merge_from_file(path, allow_unsafe=False)
    return cfg


def is_istd(cfg: CfgNode | None, outputs: Sequence[str]) -> bool:
    """Whether an ISTD network is exported: the configuration says so, or without one the kind of file."""
    if cfg is not None:
        return cfg.MODEL.META_ARCHITECTURE == "PointSupervisedISTD"
    return any(path.endswith((".onnx", ".pt")) for path in outputs)


def export_s4m(options: argparse.Namespace, cfg: CfgNode | None) -> None:
    """Write weights, and the configuration where there is one."""
    if len(options.output) > 1 or options.int8 or options.evaluate:
        raise ValueError("an S4M network is exported to one .pth file; --int8 and --evaluate are of ISTD.")
    if cfg is not None:
        plain_config(cfg, options.output[0])  # refuses before anything is written
    export_weights(options.checkpoint, options.network, options.output[0])
    print(options.output[0])
    if cfg is not None:
        print(export_config(cfg, options.output[0]))


def quantise_student(options: argparse.Namespace, cfg: CfgNode | None, depth: str, scored: list[dict]) -> None:
    """Write the int8 form; it never sees an image that is scored."""
    source = next((path for path in options.output if path.endswith(".onnx")), None)
    if source is None:
        raise ValueError("--int8 quantises an .onnx file: name one in --output.")
    names = options.calibrate or (list(cfg.DATASETS.TRAIN) if cfg is not None else [])
    if not names:
        raise ValueError("--int8 needs training images: name them with --calibrate.")
    records = load_datasets(names, "--calibrate" if options.calibrate else "DATASETS.TRAIN")
    both = {record["file_name"] for record in records} & {record["file_name"] for record in scored}
    if both:
        raise ValueError(f"{min(both)} is both in --calibrate and in --evaluate: calibrate on training images alone.")
    step = max(1, len(records) // max(1, options.calibration_images))
    chosen = records[::step][: options.calibration_images]
    quantise(source, options.int8, [read_infrared(record["file_name"], depth) for record in chosen])
    print(options.int8)


def export_istd(options: argparse.Namespace, cfg: CfgNode | None) -> None:
    """Write every form, then score them."""
    if options.network == "teacher":
        raise ValueError("the teacher of an ISTD network needs its foundation model and is not exported.")
    loaded = load_network(options.checkpoint, "--checkpoint") if cfg is None else load_student(cfg, options.checkpoint)
    scored = load_datasets(options.evaluate, "--evaluate")
    for path in options.output:
        export_student(*loaded, path)
        print(path)
    if options.int8:
        quantise_student(options, cfg, loaded[1].depth, scored)
    if not scored:
        return
    files = [*options.output, *([options.int8] if options.int8 else [])]
    scores = compare_runners({"PyTorch": run_network(*loaded)} | {path: open_model(path) for path in files}, scored)
    for name, figures in scores.items():
        print(name, *(f"{figure} {value:.3f}" for figure, value in figures.items()))
    if options.report:
        with atomic_write(options.report, "w") as file:
            json.dump({"data": options.evaluate, "images": len(scored), "scores": scores}, file, indent=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Export as the options say."""
    options = parse_arguments(arguments)
    try:
        cfg = read_config(options.config_file)
        (export_istd if is_istd(cfg, options.output) else export_s4m)(options, cfg)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"export_student: {error}")


if __name__ == "__main__":
    main()
