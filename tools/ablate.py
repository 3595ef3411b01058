#!/usr/bin/env python
"""Ablation of S4M: supervised, mean teacher, each part alone, all, and each one left out, over seeds.

python tools/ablate.py --output output/ablation_shapes_5 --seeds 1 2 3 --jobs 2        # synthetic shapes, 5 % labels
python tools/ablate.py --prefix dsb2018 --percent 5 --output output/ablation_dsb2018 --device cuda --jobs 14 \\
    --train JSON IMAGES --test JSON IMAGES [--rows ROW ...] [--minutes M] [--opts KEY VALUE ...]
The same command again goes on where it was. ablation.md, .json and .png tell all rows and all seeds of the folder; a
folder is of one data set, one labeled share, one kind of device and one set of options.
"""

from experiments import s4m, s4m_report
from experiments.grid import grid_parser
from experiments.record import claim_folder
from experiments.table import write_report


def main() -> None:
    """Run what is missing and write the table, the figures and the plot."""
    parser, names = grid_parser(__doc__), [row.name for row in s4m.Rows("shapes").ablation()]
    parser.add_argument("--rows", nargs="+", default=[], choices=names, metavar="ROW", help=f"of {', '.join(names)}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for all trainings")
    args = s4m.parse_arguments(parser)
    rows = s4m.Rows(args.prefix, args.student, args.backbone).ablation()
    options = ["MODEL.DEVICE", args.device, *args.opts]
    grid = s4m.make_grid(args, rows, options, keep_checkpoints=False)
    settings = {**s4m.data_settings(args), **grid.settings()}
    title = f"{args.prefix}, {args.percent:g} % labels"

    def report() -> None:
        table = s4m_report.ablation_table(grid.rows())
        write_report(args.output, "ablation", settings, f"# Ablation\n\n{table}", grid.rows())
        s4m_report.ablation_plot(grid.rows(), args.output / "ablation.png", title)

    with claim_folder(args.output, settings):
        s4m.write_data(args)
        try:
            grid.run(report, args.rows, jobs=args.jobs, threads=args.threads, minutes=args.minutes)
        finally:
            print((args.output / "ablation.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
