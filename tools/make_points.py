#!/usr/bin/env python
"""The script of `istd points`: python tools/make_points.py --help."""

from d2kit.commands import run_command
from istd.commands import points

if __name__ == "__main__":
    raise SystemExit(run_command(points))
