#!/usr/bin/env python
"""The script of `s4m check`: python tools/check_data.py --help."""

from d2kit.commands import run_command
from s4m.commands import check

if __name__ == "__main__":
    raise SystemExit(run_command(check))
