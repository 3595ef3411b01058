"""This script runs `s4m split`; python tools/make_splits.py --help lists its arguments."""

from d2kit.commands import run_command
from s4m.commands import split

if __name__ == "__main__":
    raise SystemExit(run_command(split))
