#!/usr/bin/env python
"""The script of `s4m tiles`: python tools/make_tiles.py --help."""

import sys

from d2kit.commands import run_command
from s4m.commands import tiles

if __name__ == "__main__":
    sys.exit(run_command(tiles))
