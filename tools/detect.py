#!/usr/bin/env python
"""The script of `istd detect`: python tools/detect.py --help."""

from d2kit.commands import run_command
from istd.commands import detect

if __name__ == "__main__":
    raise SystemExit(run_command(detect))
