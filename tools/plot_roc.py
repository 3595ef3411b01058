"""This script runs `istd roc`; python tools/plot_roc.py --help lists its arguments."""

from d2kit.commands import run_command
from istd.commands import roc

if __name__ == "__main__":
    raise SystemExit(run_command(roc))
