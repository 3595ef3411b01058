"""Train rows of the method's table (networks x schemes x seeds) and write table.md and table.json.

python tools/reproduce_table.py --output output/table --data datasets/sirst --networks mshnet dnanet \\
    --schemes full semantic_prior --seeds 1 2 3 --jobs 4 --opts ISTD.SCHEDULE.EPOCHS 100
python tools/reproduce_table.py --output output/scale --scenes 300 --networks mshnet --schemes semantic_prior \\
    --sweep ISTD.SCAM.SCALE 0.05 0.12 0.3 0.6 --opts ISTD.VFM.CHECKPOINT random     # one row a value
Every training is a process of tools/train_net.py with the configuration of a network and the overlay of a scheme. The
same command again goes on with what was interrupted and skips what is finished; a training that fails is named, and
the others go on. A sweep names the value that is best on the validation images; the test set takes no part in that.
"""

from functools import partial
from pathlib import Path

from experiments import istd
from experiments.grid import Grid, grid_parser, run_grid
from istd.data.builtin import write_scenes_once


def main() -> None:
    """Run everything; the exit status is 1 if a training failed."""
    parser = grid_parser(__doc__)
    parser.set_defaults(jobs=1)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help="SIRST-style folder (default: what the configurations name)")
    source.add_argument("--scenes", type=int, help="synthetic scenes, written to OUTPUT/scenes<COUNT>")
    parser.add_argument("--networks", nargs="+", choices=istd.NETWORKS, default=istd.NETWORKS)
    parser.add_argument("--schemes", nargs="+", choices=istd.SCHEMES, default=("full", "semantic_prior"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--sweep", nargs="+", metavar=("KEY", "VALUE"), default=[], help="a row for each value")
    args = parser.parse_args()
    if len(args.sweep) == 1:
        parser.error("--sweep takes a key and at least one value")
    data = args.output / f"scenes{args.scenes}" if args.scenes else args.data
    sets = istd.data_options(data) if data else []
    trainings = istd.plan(args.networks, args.schemes, args.sweep)
    grid = Grid(args.output, trainings, args.seeds, istd.final_figures, data=lambda *_: sets, options=args.opts)
    settings = {"data": str(data.resolve()) if data else "of the configurations"}
    write_data = partial(write_scenes_once, data, args.scenes) if args.scenes else lambda: None
    run_grid(grid, args, "table", settings, istd.all_tables, write_data)


if __name__ == "__main__":
    main()
