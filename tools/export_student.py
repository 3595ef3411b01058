"""Write a trained student in a form that needs nothing of its training: `s4m export` or `istd export`.

The configuration, or without one the suffix of the output, decides which. `istd export --help` describes the forms and
the options of ISTD, `s4m export --help` those of S4M, which writes one file.
"""

import sys

from d2kit.commands import run_command
from d2kit.config_files import named_architecture
from istd.commands import export as istd_export
from s4m.commands import export as s4m_export


def add_arguments(parser):
    """Add the arguments of both packages."""
    istd_export.add_arguments(parser)
    parser.add_argument("--network", choices=("student", "teacher"), default="student", help="of S4M")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="of S4M; default: those of DATASETS.TRAIN")


def run(args):
    """Export by the package that trained the checkpoint."""
    if args.config_file:
        is_istd = named_architecture([args.config_file]) == "PointSupervisedISTD"
    else:
        is_istd = any(path.endswith((".onnx", ".pt")) for path in args.output)
    if is_istd and args.network == "teacher":
        raise ValueError("the teacher of an ISTD network needs its foundation model and is not exported.")
    if is_istd:
        return istd_export.run(args)
    if len(args.output) > 1 or args.int8 or args.evaluate:
        raise ValueError("an S4M network is exported to one file; --int8 and --evaluate are for ISTD.")
    args.output, args.run = args.output[0], None
    return s4m_export.run(args)


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__]))
