"""Arguments and printing of the commands that check data sets."""

import argparse
import re
from collections.abc import Callable, Sequence

from detectron2.config import CfgNode

from d2kit.config_files import compose_config
from d2kit.faults import LEVELS, Faults
from d2kit.limits import set_max_pixels

_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")  # a configuration key, which no data set is called like


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data sets, --config-file, --overlay, and configuration keys as in training."""
    parser.add_argument("--config-file", metavar="FILE", help="check the data sets of a configuration")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="merged on top; repeatable")
    parser.add_argument(
        "inputs", nargs="*", metavar="DATA_SET|KEY VALUE", help="data sets, then configuration keys with their values"
    )


def compose(args: argparse.Namespace, add_keys: Callable[[CfgNode], None]) -> tuple[list[str], CfgNode]:
    """Return the data sets that the arguments name, and the configuration of the files and keys.

    Without a data set those of the configuration are meant.

    Raises:
        argparse.ArgumentError: there is neither a data set nor --config-file.
        FileNotFoundError, KeyError, ValueError: see `compose_config`.
    """
    keys = [place for place, text in enumerate(args.inputs) if _KEY.fullmatch(text)]
    count = keys[0] if keys else len(args.inputs)
    if not count and not args.config_file:
        raise argparse.ArgumentError(None, "name data sets or --config-file")
    files = [*filter(None, [args.config_file]), *args.overlay]
    cfg = compose_config(files, args.inputs[count:], [add_keys])
    set_max_pixels(cfg.INPUT.MAX_PIXELS)
    return args.inputs[:count], cfg


def print_all(all_faults: Sequence[Faults]) -> int:
    """Print the faults of several places and their sums; returns the exit status, which is 1 if there is an error."""
    for faults in all_faults:
        print(*faults.lines(), sep="\n")
    counts = [sum(fault.count for faults in all_faults for fault in faults.of(level)) for level in LEVELS]
    print("{} errors, {} repaired, {} warnings".format(*counts))
    return int(counts[0] > 0)
