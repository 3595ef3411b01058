r"""Train or evaluate any configuration: `s4m train` or `istd train`, by the files' MODEL.META_ARCHITECTURE.

    python tools/train_net.py --config-file configs/quick/shapes_stage2.yaml [--resume] [--eval-only] [KEY VALUE ...]
"""

import sys

from d2kit.commands import run_command
from d2kit.config_files import named_architecture
from d2kit.launcher import add_arguments  # noqa: F401  (`run_command` calls it as this module's.)
from istd.commands import train as istd_train
from s4m.commands import train as s4m_train


def run(args):
    """Train or evaluate in the package that the configuration is for."""
    architecture = named_architecture([args.config_file, *args.overlay], args.opts)
    (istd_train if architecture == "PointSupervisedISTD" else s4m_train).run(args)


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__]))
