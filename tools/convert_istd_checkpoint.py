"""This script runs `istd convert`; python tools/convert_istd_checkpoint.py --help lists its arguments."""

from d2kit.commands import run_command
from istd.commands import convert

if __name__ == "__main__":
    raise SystemExit(run_command(convert))
