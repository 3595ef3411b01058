"""Training and evaluation from the command line, for every package that gives a `TrainingSetup`."""

import argparse
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from d2kit.config_files import compose_config, find_config, named_architecture
from d2kit.ranges import Allowed, check_values
from d2kit.run_folder import hold_folder
from d2kit.trainer import ResumableTrainer, fixed_seed


def keep_schedule(cfg: CfgNode) -> CfgNode:
    """The configuration itself, for packages whose schedule does not follow the batch."""
    return cfg


@dataclass(frozen=True)
class TrainingSetup:
    """What the launcher needs to know of a package. Functions and classes must be importable by their names.

    Attributes:
        package: its name, for the logger.
        add_keys: adds its configuration keys to Detectron2's, in place.
        values: what its keys may be, see `d2kit.ranges`.
        trainer_class: trains, and evaluates by `build_model`, `checkpointer_class` and `test`.
        resolve_datasets: registers the data sets that a frozen configuration names by their path.
        scale_schedule: adapts a frozen configuration to its batch; gives a frozen one.
    """

    package: str
    add_keys: Callable[[CfgNode], None]
    values: Mapping[str, Allowed]
    trainer_class: type[ResumableTrainer]
    resolve_datasets: Callable[[CfgNode], None]
    scale_schedule: Callable[[CfgNode], CfgNode] = keep_schedule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add Detectron2's arguments of training scripts, and --overlay."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a path, or a shipped file's name")
    parser.add_argument(
        "--overlay", action="append", default=[], metavar="FILE", help="merged on top of --config-file; repeatable"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument(
        "--allow-changed", action="store_true", help="with --resume: whatever keys changed since the checkpoint"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; with --resume, the last one")
    parser.add_argument("--num-gpus", type=int, default=1, help="on this machine; CPU processes if MODEL.DEVICE is cpu")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine")
    url = default_argument_parser().get_default("dist_url")
    parser.add_argument("--dist-url", default=url, help="where the processes meet, see torch.distributed")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration keys, last of all")


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `add_arguments`; the run only evaluates."""
    add_arguments(parser)
    parser.set_defaults(eval_only=True)


def compose(training: TrainingSetup, args: argparse.Namespace) -> CfgNode:
    """The configuration of the files and options; a KeyError says which package's keys are known."""
    files = [args.config_file, *args.overlay]
    try:
        return compose_config(files, args.opts, [training.add_keys])
    except KeyError as error:
        architecture = named_architecture(files, args.opts) or "none"
        known = f"known are the keys of {training.package} and of Detectron2"
        raise KeyError(f"{error.args[0]}; {known}, and the files name the architecture {architecture}") from error


def set_up(training: TrainingSetup, args: argparse.Namespace) -> CfgNode:
    """The frozen configuration of this run, with its seed drawn and its data sets registered."""
    cfg = compose(training, args)
    check_values(cfg, training.values)
    for name in (training.package, "d2kit"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger("detectron2").warning("No CUDA device is here: MODEL.DEVICE becomes cpu.")
        cfg.MODEL.DEVICE = "cpu"
    cfg.SEED = fixed_seed(cfg)
    cfg.freeze()
    training.resolve_datasets(cfg)
    cfg = training.scale_schedule(cfg)
    args.config_file = find_config(args.config_file)  # default_setup logs its content
    default_setup(cfg, args)
    return cfg


def run_process(training: TrainingSetup, args: argparse.Namespace) -> dict | None:
    """Train or evaluate in one of the processes; returns the results of the last evaluation."""
    cfg = set_up(training, args)
    if args.eval_only:
        return evaluate(training.trainer_class, cfg, args.resume)
    trainer = training.trainer_class(cfg)
    trainer.allow_changed = args.allow_changed
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def evaluate(trainer_class: type[ResumableTrainer], cfg: CfgNode, resume: bool) -> dict:
    """Evaluate MODEL.WEIGHTS, or with `resume` the last checkpoint, and print the results."""
    model = trainer_class.build_model(cfg)
    checkpointer = trainer_class.checkpointer_class(model, save_dir=cfg.OUTPUT_DIR)
    if resume and checkpointer.has_checkpoint():
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = checkpointer.get_checkpoint_file()  # evaluators name their files after it
        cfg.freeze()
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = trainer_class.test(cfg, model)
    if comm.is_main_process():
        for name, metrics in results.items():
            logging.getLogger("detectron2").info("Results of %s:", name)
            print_csv_format(metrics)
    return results


def launch_training(training: TrainingSetup, args: argparse.Namespace) -> None:
    """Train or evaluate in as many processes as the arguments of `add_arguments` say.

    Detectron2's `launch` takes every GPU that it sees: where MODEL.DEVICE is cpu, it sees none.
    """
    cfg = compose(training, args)
    if args.num_gpus > 1 and cfg.MODEL.DEVICE == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    holds = not args.eval_only and args.machine_rank == 0
    with hold_folder(cfg.OUTPUT_DIR) if holds else contextlib.nullcontext():
        launch(
            run_process,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(training, args),
        )
