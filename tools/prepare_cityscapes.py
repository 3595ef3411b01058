"""This script runs `s4m prepare-cityscapes`; python tools/prepare_cityscapes.py --help lists its arguments."""

from d2kit.commands import run_command
from s4m.commands import prepare_cityscapes

if __name__ == "__main__":
    raise SystemExit(run_command(prepare_cityscapes))
