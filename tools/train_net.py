#!/usr/bin/env python
"""Train or evaluate any configuration of this project; the arguments are Detectron2's.

python tools/train_net.py --config-file configs/quick/shapes_student.yaml [--resume] [--eval-only] [KEY VALUE ...]
With MODEL.DEVICE cpu, --num-gpus is the number of CPU processes.
"""

import logging

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import print_csv_format
from detectron2.utils import comm

from d2kit.trainer import fixed_seed
from s4m import add_s4m_config
from s4m.data.image_folder import resolve_config_datasets
from s4m.engine.schedule import scale_schedule
from s4m.engine.trainer import S4MTrainer


def setup(args) -> CfgNode:
    """The frozen configuration of this run, with its seed drawn and its data sets registered."""
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger("detectron2").warning("No CUDA device is here: MODEL.DEVICE becomes cpu.")
        cfg.MODEL.DEVICE = "cpu"
    cfg.SEED = fixed_seed(cfg)
    cfg.freeze()
    resolve_config_datasets(cfg)
    cfg = scale_schedule(cfg)
    default_setup(cfg, args)
    return cfg


def main(args):
    """Run one process."""
    cfg = setup(args)
    if not args.eval_only:
        trainer = S4MTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = S4MTrainer.build_model(cfg)
    S4MTrainer.checkpointer_class(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = S4MTrainer.test(cfg, model)
    if comm.is_main_process():
        for name, metrics in results.items():
            logging.getLogger("detectron2").info("Results of the %s:", name)
            print_csv_format(metrics)
    return results


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
