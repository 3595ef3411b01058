r"""Find every fault of data sets: of images, masks, points, names, and of what training needs.

    istd check sirst:my_targets:train.txt sirst:my_targets:test.txt
    istd check --config-file istd/networks/alcnet.yaml --overlay istd/schemes/pal.yaml \
        DATASETS.TRAIN "('sirst:my_targets:train.txt',)" DATASETS.VALIDATION "()" DATASETS.TEST "()"

A configuration is checked as its training would use it: all data sets of DATASETS.TRAIN, VALIDATION and TEST. Faults
are errors, which training refuses, repairs, which reading makes each time, and warnings. The exit status is 1 if there
is an error. The data are never written.
"""

import argparse

from d2kit.check_command import add_arguments, compose, print_all
from istd import add_istd_config
from istd.data.check import check_config, check_groups

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Print the faults; returns 1 if there is an error."""
    names, cfg = compose(args, add_istd_config)
    return print_all(check_groups({name: [name] for name in names}, cfg) if names else check_config(cfg))
