"""This script runs `s4m tiles`; python tools/make_tiles.py --help lists its arguments."""

from d2kit.commands import run_command
from s4m.commands import tiles

if __name__ == "__main__":
    raise SystemExit(run_command(tiles))
