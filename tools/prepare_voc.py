"""This script runs `s4m prepare-voc`; python tools/prepare_voc.py --help lists its arguments."""

from d2kit.commands import run_command
from s4m.commands import prepare_voc

if __name__ == "__main__":
    raise SystemExit(run_command(prepare_voc))
