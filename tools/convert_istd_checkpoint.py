#!/usr/bin/env python
"""The script of `istd convert`: python tools/convert_istd_checkpoint.py --help."""

from d2kit.commands import run_command
from istd.commands import convert

if __name__ == "__main__":
    raise SystemExit(run_command(convert))
