"""Ablate S4M over seeds: supervised, mean teacher, each part alone, all, and each one left out.

python tools/ablate.py --output output/ablation_shapes_5 --seeds 1 2 3 --jobs 2        # synthetic shapes, 5 % labels
python tools/ablate.py --prefix dsb2018 --percent 5 --output output/ablation_dsb2018 --device cuda --jobs 14 \\
    --train JSON IMAGES --test JSON IMAGES [--rows ROW ...] [--minutes M] [--opts KEY VALUE ...]
The same command again goes on where it was. ablation.md, .json and .png show all rows and all seeds of the folder. A
folder is for one data set, one labeled share, one device and one set of options.
"""

from functools import partial

from experiments import s4m
from experiments.grid import grid_parser, run_grid
from experiments.s4m_report import ablation_plot, ablation_table


def main() -> None:
    """Run what is missing and write the table, the figures and the plot."""
    parser = grid_parser(__doc__)
    names = [name for name in s4m.trainings("shapes") if name != "stage2"]
    parser.add_argument("--rows", nargs="+", default=[], choices=names, metavar="ROW", help=f"of {', '.join(names)}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for all trainings")
    args = s4m.parse_arguments(parser)
    options = ["MODEL.DEVICE", args.device, *args.opts]
    grid = s4m.make_grid(args, names, options=options, keep_checkpoints=False)
    try:
        write_data = partial(s4m.write_data, args)
        run_grid(grid, args, "ablation", s4m.data_settings(args), ablation_table, write_data, args.rows)
    finally:
        ablation_plot(grid.rows(), args.output / "ablation.png", f"{args.prefix}, {args.percent:g} % labels")


if __name__ == "__main__":
    main()
