"""Training and evaluation from the command line for each package that has a `TrainingSetup`."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from d2kit import __version__
from d2kit.checkpoint import AtomicCheckpointer
from d2kit.config_files import compose_config, find_config, named_architecture
from d2kit.files import atomic_write
from d2kit.limits import set_max_pixels
from d2kit.ranges import Allowed, check_values
from d2kit.rng import derive_seed
from d2kit.run_folder import hold_folder
from d2kit.trainer import ResumableTrainer


@dataclass(frozen=True)
class TrainingSetup:
    """The parts of a package that the launcher uses. Functions and classes must be importable by their names.

    Attributes:
        package: the name of the package, for the logger.
        add_keys: a function that adds the package's configuration keys to Detectron2's, in place.
        values: the values that these keys may have, see `d2kit.ranges`.
        trainer_class: the trainer; an evaluation uses its `build_model`, `checkpointer_class` and `test`.
        resolve_datasets: a function that registers the data sets that a frozen configuration names by their path.
        scale_schedule: a function from a frozen configuration to one that is adapted to its batch, or None.
    """

    package: str
    add_keys: Callable[[CfgNode], None]
    values: Mapping[str, Allowed]
    trainer_class: type[ResumableTrainer]
    resolve_datasets: Callable[[CfgNode], None]
    scale_schedule: Callable[[CfgNode], CfgNode] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of Detectron2's training scripts, and --overlay."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a path, or a shipped file's name")
    parser.add_argument(
        "--overlay", action="append", default=[], metavar="FILE", help="merged on top of --config-file; repeatable"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument(
        "--allow-changed", action="store_true", help="with --resume: whatever keys changed since the checkpoint"
    )
    parser.add_argument("--eval-only", action="store_true", help="score MODEL.WEIGHTS or OUTPUT_DIR's best checkpoint")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs, or CPU processes if MODEL.DEVICE is cpu")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="rank of this machine, from 0")
    url = default_argument_parser().get_default("dist_url")
    parser.add_argument("--dist-url", default=url, help="address of the first process, see torch.distributed")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration keys, merged last")


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `add_arguments`; the run only evaluates."""
    add_arguments(parser)
    parser.set_defaults(eval_only=True)


def compose(training: TrainingSetup, args: argparse.Namespace) -> CfgNode:
    """Return the configuration of the files and options; a KeyError says which package's keys are known."""
    files = [args.config_file, *args.overlay]
    try:
        return compose_config(files, args.opts, [training.add_keys])
    except KeyError as error:
        architecture = named_architecture(files, args.opts) or "none"
        known = f"the known keys are the keys of {training.package} and of Detectron2"
        raise KeyError(f"{error.args[0]}; {known}, and the files name the architecture {architecture}.") from error


class FileOnly(logging.Filter):
    """Keeps long descriptions off the terminal; `log.txt` in OUTPUT_DIR has them."""

    BEGINNINGS = ("Environment info:", "Contents of args.config_file", "Running with full config:", "Model:")

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the terminal shows a record."""
        return not record.getMessage().startswith(self.BEGINNINGS)


def choose_device(cfg: CfgNode) -> None:
    """Let MODEL.DEVICE be cpu, in place and with a warning, where it is cuda and there is no such device.

    Raises:
        ValueError: there is no device of that name.
    """
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE must be cpu, cuda or such, not '{cfg.MODEL.DEVICE}'.") from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger("detectron2").warning("There is no CUDA device, so MODEL.DEVICE becomes cpu.")
        cfg.MODEL.DEVICE = "cpu"


def set_up(training: TrainingSetup, args: argparse.Namespace) -> CfgNode:
    """Return the frozen configuration of this run, with a seed of at least 0 and its data sets registered."""
    cfg = compose(training, args)
    check_values(cfg, training.values)
    set_max_pixels(cfg.INPUT.MAX_PIXELS)
    for name in (training.package, "d2kit"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    choose_device(cfg)
    if cfg.SEED < 0:
        cfg.SEED = derive_seed(comm.shared_random_seed())  # All processes get the same seed.
    cfg.freeze()
    training.resolve_datasets(cfg)
    if training.scale_schedule:
        cfg = training.scale_schedule(cfg)
    args.config_file = find_config(args.config_file)  # default_setup logs the content of this file.
    for handler in setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank()).handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(FileOnly())
    path = Path(cfg.OUTPUT_DIR, "config.yaml")
    keeps = (args.eval_only or args.resume) and path.is_file()  # A resume that is refused leaves it as it was.
    of_training = path.read_bytes() if keeps else b""
    default_setup(cfg, args)  # It writes config.yaml.
    logging.getLogger(training.package).info("This is %s %s.", training.package, __version__)
    if of_training and comm.is_main_process():
        with atomic_write(path) as file:
            file.write(of_training)
    return cfg


def run_process(training: TrainingSetup, args: argparse.Namespace) -> dict | None:
    """Train or evaluate in one of the processes, and return the results of the last evaluation."""
    cfg = set_up(training, args)
    if args.eval_only:
        given = dict(zip(args.opts[::2], args.opts[1::2], strict=False)).get("MODEL.WEIGHTS", "")
        return evaluate(training.trainer_class, cfg, given, args.resume)
    trainer = training.trainer_class(cfg)
    trainer.allow_changed = args.allow_changed
    trainer.resume_or_load(resume=args.resume)
    if comm.is_main_process():
        with atomic_write(Path(cfg.OUTPUT_DIR, "config.yaml"), "w") as file:
            file.write(cfg.dump())
    return trainer.train()


def weights_to_evaluate(given: str, checkpointer: AtomicCheckpointer, resume: bool) -> str:
    """Return the checkpoint that an evaluation scores.

    It is the first of these that there is: with `resume` the last checkpoint of OUTPUT_DIR, the given file, the best
    checkpoint of OUTPUT_DIR, and its last one.

    Args:
        given: MODEL.WEIGHTS of the command line, or "". The value in a configuration file is what a training starts
            from, and is not meant.
        checkpointer: knows OUTPUT_DIR.
        resume: whether --resume was given.

    Raises:
        FileNotFoundError: there is none of them.
    """
    if resume and checkpointer.has_checkpoint():
        return checkpointer.get_checkpoint_file()
    best = Path(checkpointer.save_dir, "model_best.pth")
    chosen = given or (str(best) if best.is_file() else checkpointer.get_checkpoint_file())
    if not chosen:
        raise FileNotFoundError(
            f"There is no network to evaluate: OUTPUT_DIR '{checkpointer.save_dir}' holds no checkpoint, and the "
            "command line names no MODEL.WEIGHTS."
        )
    return chosen


def evaluate(trainer_class: type[ResumableTrainer], cfg: CfgNode, given: str, resume: bool) -> dict:
    """Evaluate the checkpoint that `weights_to_evaluate` chooses, and print the results.

    Raises:
        ValueError: the file lacks weights of the network, which would stay random.
    """
    logger = logging.getLogger("detectron2")
    model = trainer_class.build_model(cfg)
    checkpointer = trainer_class.checkpointer_class(model, save_dir=cfg.OUTPUT_DIR)
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights_to_evaluate(given, checkpointer, resume)  # Evaluators name their files after it.
    cfg.freeze()
    logger.info("The evaluation is of %s.", cfg.MODEL.WEIGHTS)
    checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
    missing = checkpointer.missing
    if missing:
        raise ValueError(
            f"'{cfg.MODEL.WEIGHTS}' lacks {len(missing)} weights of the network, '{missing[0]}' for one: it holds a "
            "backbone or another network, and an evaluation would score random weights."
        )
    results = trainer_class.test(cfg, model)
    if comm.is_main_process():
        for name, metrics in results.items():
            logger.info("Results of %s:", name)
            print_csv_format(metrics)
    return results


def launch_training(training: TrainingSetup, args: argparse.Namespace) -> None:
    """Train or evaluate in as many processes as the arguments of `add_arguments` say.

    Detectron2's `launch` uses every visible GPU, so no GPU is visible where MODEL.DEVICE is cpu.
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
