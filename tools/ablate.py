#!/usr/bin/env python
"""Ablation of S4M: supervised, mean teacher, each part alone, all, and each one left out, over seeds.

python tools/ablate.py --output output/ablation_shapes_5 --seeds 1 2 3 --jobs 2        # synthetic shapes, 5 % labels
python tools/ablate.py --prefix dsb2018 --percent 5 --output output/ablation_dsb2018 --device cuda --jobs 14 \\
    --train JSON IMAGES --test JSON IMAGES [--rows ROW ...] [--minutes M] [--opts KEY VALUE ...]
The same command again goes on where it was. ablation.md, .json and .png tell all rows and all seeds of the folder; a
folder is of one data set, one labeled share, one kind of device and one set of options.
"""

from functools import partial

from experiments import s4m
from experiments.grid import Grid, grid_parser, run_grid
from experiments.s4m_report import ablation_plot, ablation_table


def main() -> None:
    """Run what is missing and write the table, the figures and the plot."""
    parser = grid_parser(__doc__)
    names = [name for name in s4m.trainings("shapes") if name != "stage2"]
    parser.add_argument("--rows", nargs="+", default=[], choices=names, metavar="ROW", help=f"of {', '.join(names)}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for all trainings")
    args = s4m.parse_arguments(parser)
    known = s4m.trainings(args.prefix, args.student, args.backbone)
    data, rows = partial(s4m.data_options, args), [known[name] for name in names]
    options = ["MODEL.DEVICE", args.device, *args.opts]
    grid = Grid(args.output, rows, args.seeds, s4m.final_figures, data=data, options=options, keep_checkpoints=False)
    settings, write_data = s4m.data_settings(args), partial(s4m.write_data, args)
    try:
        run_grid(grid, args, "ablation", settings, ablation_table, write_data, args.rows)
    finally:
        ablation_plot(grid.rows(), args.output / "ablation.png", f"{args.prefix}, {args.percent:g} % labels")


if __name__ == "__main__":
    main()
