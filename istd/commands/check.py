r"""Find every fault of data sets: of images, masks, points, names, and of what training needs.

    istd check sirst:my_targets:train.txt sirst:my_targets:test.txt
    istd check sirst:my_targets/train.yaml
    istd check --config-file istd/networks/alcnet.yaml --overlay istd/schemes/pal.yaml \
        DATASETS.TRAIN "('sirst:my_targets:train.txt',)" DATASETS.VALIDATION "()" DATASETS.TEST "()"

A configuration is checked as its training would use it: all data sets of DATASETS.TRAIN, VALIDATION and TEST. Faults
are errors, which training refuses, repairs, which reading makes each time, and warnings. The exit status is 1 if there
is an error.

--write NAME.yaml writes a data set without errors as it is read: NAME.yaml describes it, NAME_split.txt lists the
images that are not left out, and NAME_points.csv has the repaired points. The data themselves are never changed.
"""

import argparse

from detectron2.data import MetadataCatalog

from d2kit import check_command
from istd import add_istd_config
from istd.data.check import check_config, check_groups
from istd.data.write_set import write_set


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    check_command.add_arguments(parser)
    parser.add_argument("--write", metavar="FILE", help="new .yaml or .json file for the set as it is read")


def run(args: argparse.Namespace) -> int:
    """Print the faults; returns 1 if there is an error."""
    names, cfg = check_command.compose(args, add_istd_config)
    if args.write and len(names) != 1:
        raise argparse.ArgumentError(None, "--write needs one data set.")
    all_faults = check_groups({name: [name] for name in names}, cfg) if names else check_config(cfg)
    status = check_command.print_all(all_faults)
    if args.write and status:
        print(f"{args.write} is not written, because errors cannot be repaired.")
    elif args.write:
        print(*write_set(args.write, MetadataCatalog.get(names[0]).open_folder()), sep="\n")
    return status
