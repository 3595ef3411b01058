#!/usr/bin/env python
"""The script of `istd detect`: python tools/detect.py --help."""

import sys

from d2kit.commands import run_command
from istd.commands import detect

if __name__ == "__main__":
    sys.exit(run_command(detect))
