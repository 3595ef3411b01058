"""This script runs `istd clusters`; python tools/make_clusters.py --help lists its arguments."""

from d2kit.commands import run_command
from istd.commands import clusters

if __name__ == "__main__":
    raise SystemExit(run_command(clusters))
