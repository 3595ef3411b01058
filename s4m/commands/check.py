r"""Check data sets before training, and tell all their faults: errors, what is repaired, and warnings.

    s4m check coco:data/train.json:data/images --write data/train_fixed.json
    s4m check --config-file s4m/own_data_stage1.yaml DATASETS.TRAIN "('coco:data/train.json:data/images',)"

A configuration is checked as its training would use it, and its data sets are compared with each other. The exit
status is 1 if there is an error.
"""

import argparse
from pathlib import Path

from d2kit import check_command
from s4m import add_s4m_config
from s4m.data.check import check_config, check_sets, write_repaired
from s4m.data.datasets_by_path import resolve_config_datasets, resolve_datasets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    check_command.add_arguments(parser)
    parser.add_argument("--write", metavar="FILE", help="write the repaired json of the only data set to this file")


def run(args: argparse.Namespace) -> int:
    """Print the faults; returns 1 if there is an error."""
    names, cfg = check_command.compose(args, add_s4m_config)
    if args.write and len(names) != 1:
        raise argparse.ArgumentError(None, "--write needs one data set")
    if names:
        resolve_datasets(names)
        all_faults = check_sets(names, cfg)
    else:
        resolve_config_datasets(cfg)
        all_faults = check_config(cfg)
    status = check_command.print_all(all_faults)
    if args.write and status:
        print(f"'{args.write}' is not written, because errors cannot be repaired.")
    elif args.write:
        print(write_repaired(names[0], Path(args.write), objects_of_crowds=cfg.INPUT.CROWDS_AS_OBJECTS))
    return status
