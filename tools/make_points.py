"""This script runs `istd points`; python tools/make_points.py --help lists its arguments."""

from d2kit.commands import run_command
from istd.commands import points

if __name__ == "__main__":
    raise SystemExit(run_command(points))
