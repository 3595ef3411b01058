"""This script runs `istd detect`; python tools/detect.py --help lists its arguments."""

from d2kit.commands import run_command
from istd.commands import detect

if __name__ == "__main__":
    raise SystemExit(run_command(detect))
