#!/usr/bin/env python
"""Write a trained student in a form that needs nothing of its training: `s4m export` or `istd export`.

The configuration says which, or without one the kind of file. The forms, and all options after --network, are described
by `istd export --help`; --network is of S4M, which writes one .pth file.
"""

import sys

from d2kit.commands import run_command
from d2kit.config_files import named_architecture
from istd.commands import export as istd_export
from s4m.commands import export as s4m_export


def add_arguments(parser):
    """Add the arguments of both packages."""
    istd_export.add_arguments(parser)
    parser.add_argument("--network", choices=("student", "teacher"), default="student")


def run(args):
    """Export in the package that the checkpoint is of."""
    if args.config_file:
        is_istd = named_architecture([args.config_file]) == "PointSupervisedISTD"
    else:
        is_istd = any(path.endswith((".onnx", ".pt")) for path in args.output)
    if not is_istd and (len(args.output) > 1 or args.int8 or args.evaluate):
        raise ValueError("an S4M network is exported to one .pth file; --int8 and --evaluate are of ISTD.")
    if is_istd and args.network == "teacher":
        raise ValueError("the teacher of an ISTD network needs its foundation model and is not exported.")
    if not is_istd:
        args.output = args.output[0]
    (istd_export if is_istd else s4m_export).run(args)


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__]))
