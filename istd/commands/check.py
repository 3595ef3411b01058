r"""Find every fault of data sets: of images, masks, points, names, and of what training needs.

    istd check sirst:my_targets:train.txt sirst:my_targets:test.txt
    istd check sirst:my_targets/train.yaml
    istd check istd/networks/alcnet.yaml istd/schemes/pal.yaml \
        --opts DATASETS.TRAIN "('sirst:my_targets:train.txt',)" DATASETS.VALIDATION "()" DATASETS.TEST "()"

A configuration is checked as its training would use it: all data sets of DATASETS.TRAIN, VALIDATION and TEST. Faults
are errors, which training refuses, repairs, which reading makes each time, and warnings. The exit status is 1 if there
is an error.

--write NAME.yaml writes a data set without errors as it is read: NAME.yaml describes it, NAME_split.txt lists the
images that are not left out, and NAME_points.csv has the repaired points. The data themselves are never changed.
"""

import argparse

from detectron2.data import MetadataCatalog

from d2kit.config_files import compose_config
from istd import add_istd_config
from istd.data.check import check_config, check_groups
from istd.data.write_set import write_set


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "inputs",
        nargs="+",
        help="data sets, or configuration files (.yaml), of which each is merged on top of the last",
    )
    parser.add_argument("--write", metavar="FILE", help="new .yaml or .json file for the set as it is read")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")


def run(args: argparse.Namespace) -> int:
    """Print the faults; returns 1 if there is an error."""
    files = [name for name in args.inputs if name.endswith((".yaml", ".yml")) and not name.startswith("sirst:")]
    names = [name for name in args.inputs if name not in files]
    if files and names:
        raise argparse.ArgumentError(None, "give either configuration files or data sets.")
    if args.write and len(names) != 1:
        raise argparse.ArgumentError(None, "--write needs one data set.")
    cfg = compose_config(files, args.opts, [add_istd_config])
    findings = check_config(cfg) if files else check_groups({name: [name] for name in names}, cfg)
    for line in findings.lines():
        print(line)
    counts = [
        sum(cause.count for cause in findings if cause.level == level) for level in ("error", "repaired", "warning")
    ]
    print("{} errors, {} repaired, {} warnings".format(*counts))
    if args.write and findings.errors:
        print(f"{args.write} is not written, because errors cannot be repaired.")
    elif args.write:
        print(*write_set(args.write, MetadataCatalog.get(names[0]).open_folder()), sep="\n")
    return 1 if findings.errors else 0
