r"""Check data sets before training, and tell all their faults: errors, what is repaired, and warnings.

    s4m check --json data/train.json --images data/images --write data/train_fixed.json
    s4m check --config-file s4m/own_data_stage1.yaml DATASETS.TRAIN "('coco:data/train.json:data/images',)"

A training makes the same check. The exit status is 1 if there is an error.
"""

import argparse
import os
from pathlib import Path

from d2kit.config_files import compose_config
from s4m import add_s4m_config
from s4m.data.check import check_config, check_json
from s4m.data.coco import write_json
from s4m.data.datasets_by_path import resolve_config_datasets
from s4m.data.faults import ERROR, REPAIRED, WARNING, Faults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--json", help="COCO json to check")
    parser.add_argument("--images", help="folder of its images")
    parser.add_argument("--write", metavar="FILE", help="write the repaired content of --json to this file")
    parser.add_argument("--config-file", metavar="FILE", help="check the data sets of a configuration instead")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="merged on top; repeatable")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration keys, last of all")


def _print(faults: Faults) -> None:
    print(f"{faults.where}:")
    sentences = [f"{level}: {sentence}" for level in (ERROR, REPAIRED, WARNING) for sentence in faults.sentences(level)]
    print(*(f"  {sentence}" for sentence in sentences or ["no fault"]), sep="\n")


def run(args: argparse.Namespace) -> int:
    """Print the faults; returns 1 if there is an error."""
    if bool(args.json) == bool(args.config_file):
        raise argparse.ArgumentError(None, "name either --json or --config-file")
    if args.write and not args.json:
        raise argparse.ArgumentError(None, "--write needs --json")
    if args.write and os.path.abspath(args.write) == os.path.abspath(args.json):
        raise argparse.ArgumentError(None, "--write must name another file than --json")
    files = [args.config_file, *args.overlay] if args.config_file else []
    cfg = compose_config(files, args.opts, [add_s4m_config])
    if args.config_file:
        resolve_config_datasets(cfg)
        all_faults = check_config(cfg)
    else:
        data, faults = check_json(args.json, args.images, objects_of_crowds=cfg.INPUT.CROWDS_AS_OBJECTS)
        all_faults = [faults]
    for faults in all_faults:
        _print(faults)
    refused = any(faults.of(ERROR) for faults in all_faults)
    if args.write and refused:
        print(f"'{args.write}' is not written, because errors cannot be repaired.")
    elif args.write:
        print(write_json(Path(args.write), data))
    return int(refused)
