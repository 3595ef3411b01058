#!/usr/bin/env python
"""Train or evaluate any configuration of this project; the arguments are Detectron2's.

python tools/train_net.py --config-file configs/quick/shapes_stage2.yaml [--resume] [--eval-only] [KEY VALUE ...]
With MODEL.DEVICE cpu, --num-gpus is the number of CPU processes.
"""

import argparse
import logging
import os

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from d2kit.config_files import compose_config
from d2kit.trainer import fixed_seed
from istd import add_istd_config
from istd.data.datasets import resolve_config_datasets as resolve_istd_datasets
from istd.engine.trainer import ISTDTrainer
from s4m import add_s4m_config
from s4m.data.datasets_by_path import resolve_config_datasets as resolve_s4m_datasets
from s4m.engine.schedule import scale_schedule
from s4m.engine.trainer import S4MTrainer


def trainer_class(cfg: CfgNode) -> type:
    """The trainer of the configured architecture."""
    return ISTDTrainer if cfg.MODEL.META_ARCHITECTURE == "PointSupervisedISTD" else S4MTrainer


def read_config(args) -> CfgNode:
    """The configuration as file and options say it."""
    return compose_config([args.config_file, *args.overlay], args.opts, (add_s4m_config, add_istd_config))


def setup(args) -> CfgNode:
    """The frozen configuration of this run, with its seed drawn and its data sets registered."""
    cfg = read_config(args)
    for name in ("s4m", "istd", "d2kit"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger("detectron2").warning("No CUDA device is here: MODEL.DEVICE becomes cpu.")
        cfg.MODEL.DEVICE = "cpu"
    cfg.SEED = fixed_seed(cfg)
    cfg.freeze()
    (resolve_istd_datasets if trainer_class(cfg) is ISTDTrainer else resolve_s4m_datasets)(cfg)
    cfg = scale_schedule(cfg)
    default_setup(cfg, args)
    return cfg


def main(args):
    """Run one process."""
    cfg = setup(args)
    kind = trainer_class(cfg)
    if not args.eval_only:
        trainer = kind(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = kind.build_model(cfg)
    checkpointer = kind.checkpointer_class(model, save_dir=cfg.OUTPUT_DIR)
    if args.resume and checkpointer.has_checkpoint():
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = checkpointer.get_checkpoint_file()  # evaluators name their files after it
        cfg.freeze()
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = kind.test(cfg, model)
    if comm.is_main_process():
        for name, metrics in results.items():
            logging.getLogger("detectron2").info("Results of %s:", name)
            print_csv_format(metrics)
    return results


def keep_to_cpu(args) -> None:
    """Let `launch` start CPU processes where MODEL.DEVICE is cpu: it takes every GPU that it sees."""
    if read_config(args).MODEL.DEVICE == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments and --overlay."""
    parser = default_argument_parser()
    parser.add_argument(
        "--overlay", action="append", default=[], metavar="FILE", help="merged on top of --config-file; repeatable"
    )
    return parser


if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    if arguments.num_gpus > 1:
        keep_to_cpu(arguments)
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
