#!/usr/bin/env python
"""The script of `istd roc`: python tools/plot_roc.py --help."""

from d2kit.commands import run_command
from istd.commands import roc

if __name__ == "__main__":
    raise SystemExit(run_command(roc))
