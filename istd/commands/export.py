r"""Write a trained network to files that run without its training configuration.

A file is ONNX, TorchScript (.pt) or the network's weights alone (.pth), takes images of any size, and holds its
normalization, padding and threshold. --int8 adds an int8 form, which is calibrated on images of DATASETS.TRAIN or
--calibrate. --evaluate scores all forms beside PyTorch and so measures the IoU that 8 bits cost.

    istd export --run output/alcnet --output student.onnx student.pt --int8 student_int8.onnx \
        --evaluate sirst:my_targets:test.txt

--run takes the best checkpoint of a training, or else its newest. --checkpoint and --config-file name others. Files of
one network (from `istd convert`, or published LESPS files) need no --config-file.
"""

import argparse
import json

from detectron2.config import CfgNode

from d2kit.config_files import compose_config
from d2kit.files import atomic_write
from d2kit.require import require_extra
from d2kit.run_folder import checkpoint_to_use, config_of
from istd import add_istd_config
from istd.checkpoints import load_network, load_student
from istd.data.images import read_infrared
from istd.deploy.export import export_student
from istd.deploy.quantize import quantize
from istd.deploy.runners import open_model, run_network
from istd.deploy.score import compare_runners
from istd.engine.data import load_datasets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--run", help="OUTPUT_DIR of a training")
    parser.add_argument("--checkpoint", help="file that a training wrote")
    parser.add_argument("--output", required=True, nargs="+", metavar="FILE", help="files to write: .onnx, .pt, .pth")
    parser.add_argument("--config-file", help="configuration of the training of --checkpoint, such as its config.yaml")
    parser.add_argument("--int8", metavar="FILE", help="int8 form of the .onnx file among --output")
    parser.add_argument("--calibrate", nargs="+", default=[], metavar="DATASET", help="training images for --int8")
    parser.add_argument("--calibration-images", type=int, default=64, help="largest number of them (default: 64)")
    parser.add_argument("--evaluate", nargs="+", default=[], metavar="DATASET", help="score every form on these images")
    parser.add_argument("--report", help="json file for the scores")


def calibration_records(args: argparse.Namespace, cfg: CfgNode | None, scored: list[dict]) -> list[dict]:
    """Return the dataset dicts of the images that calibrate the int8 form, none of which is scored.

    Raises:
        ValueError: an option is missing, or an image is both calibrated on and scored.
    """
    if not any(path.endswith(".onnx") for path in args.output):
        raise ValueError("--int8 quantizes an .onnx file: name one in --output.")
    names = args.calibrate or (list(cfg.DATASETS.TRAIN) if cfg is not None else [])
    if not names:
        raise ValueError("--int8 needs training images: name them with --calibrate.")
    records = load_datasets(names, "--calibrate" if args.calibrate else "DATASETS.TRAIN")
    shared = {record["file_name"] for record in records} & {record["file_name"] for record in scored}
    if shared:
        raise ValueError(f"{min(shared)} is both in --calibrate and in --evaluate: calibrate on training images alone.")
    step = max(1, len(records) // max(1, args.calibration_images))
    return records[::step][: args.calibration_images]


def check_options(args: argparse.Namespace) -> None:
    """Find what the options lack before any work is done.

    Raises:
        argparse.ArgumentError: an option needs another one.
        ImportError: a package is not installed.
    """
    files = [*args.output, args.int8] if args.int8 else args.output
    if bool(args.run) == bool(args.checkpoint):
        raise argparse.ArgumentError(None, "give either --run or --checkpoint.")
    if args.config_file and not args.checkpoint:
        raise argparse.ArgumentError(None, "--config-file belongs to --checkpoint.")
    if args.calibrate and not args.int8:
        raise argparse.ArgumentError(None, "--calibrate needs --int8.")
    if args.int8 in args.output:
        raise argparse.ArgumentError(None, f"--int8 must name another file than --output, not '{args.int8}' too.")
    if args.report and not args.evaluate:
        raise argparse.ArgumentError(None, "--report needs --evaluate.")
    if any(path.endswith(".onnx") for path in files):
        require_extra("onnx", "onnx")
        if args.int8 or args.evaluate:
            require_extra("onnxruntime", "onnx")


def scored_records(args: argparse.Namespace) -> list[dict]:
    """Return the dataset dicts of --evaluate; ValueError names an image without a mask."""
    records = load_datasets(args.evaluate, "--evaluate")
    for record in records:
        if "mask_file" not in record:
            raise ValueError(f"--evaluate: {record['file_name']} has no mask to be scored by.")
    return records


def run(args: argparse.Namespace) -> None:
    """Write every form and print its path, then score them."""
    check_options(args)
    config = config_of(args.run) if args.run else args.config_file
    cfg = compose_config([config], add_keys=[add_istd_config]) if config else None
    checkpoint = checkpoint_to_use(args.run) if args.run else args.checkpoint
    network, recipe = load_student(cfg, checkpoint) if cfg else load_network(checkpoint, "--checkpoint")
    scored = scored_records(args)
    calibrating = calibration_records(args, cfg, scored) if args.int8 else []
    for path in args.output:
        export_student(network, recipe, path)
        print(path)
    if args.int8:
        images = [read_infrared(record["file_name"], recipe.value_range) for record in calibrating]
        source = next(path for path in args.output if path.endswith(".onnx"))
        print(args.int8, quantize(source, args.int8, images))
    if not scored:
        return
    files = [*args.output, args.int8] if args.int8 else args.output
    runners = {"PyTorch": run_network(network, recipe)} | {path: open_model(path, trust=True) for path in files}
    scores = compare_runners(runners, scored)
    for name, figures in scores.items():
        print(name, *(f"{figure} {value:.3f}" for figure, value in figures.items()))
    if args.report:
        with atomic_write(args.report, "w") as file:
            json.dump({"data": args.evaluate, "images": len(scored), "scores": scores}, file, indent=1)
