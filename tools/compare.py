#!/usr/bin/env python
"""Compare the supervised baseline, a mean teacher and S4M on one data set; the same command again goes on.

python tools/compare.py --output output/demo                                  # synthetic shapes, 5 % labels, one seed
python tools/compare.py --prefix dsb2018 --percent 10 --seeds 1 2 3 --output output/dsb2018_10 \\
    --train JSON IMAGES --test JSON IMAGES [--opts KEY VALUE ...]
python tools/compare.py --student mask2former --output output/mask2former     # or --backbone vit, or both
Mask2Former on dsb2018 needs tiles: cut the images of --train and --test by tools/make_tiles.py first.
Prints the commands of the trainings, then their AP; leaves summary.json, summary.md, pictures and TensorBoard logs.
"""

import time

from experiments import s4m, s4m_report
from experiments.grid import grid_parser
from experiments.record import claim_folder
from experiments.table import write_report

IN_PICTURE = ("supervised", "mean_teacher", "stage2")


def main() -> None:
    """Run the trainings of all seeds and print the table."""
    args, began = s4m.parse_arguments(grid_parser(__doc__)), time.monotonic()
    rows = s4m.Rows(args.prefix, args.student, args.backbone)
    grid = s4m.make_grid(args, rows.comparison(), args.opts)
    settings = {**s4m.data_settings(args), **grid.settings()}

    def report() -> None:
        write_report(args.output, "summary", settings, s4m_report.comparison_table(grid.rows()), grid.rows())

    with claim_folder(args.output, settings):
        s4m.write_data(args)
        try:
            grid.run(report, jobs=args.jobs, threads=args.threads, minutes=args.minutes)
        finally:
            print(s4m_report.comparison_table(grid.rows()))
        for seed in args.seeds:
            folder = args.output / f"seed{seed}"
            folders = {row.title: folder / row.name for row in grid.rows() if row.name in IN_PICTURE}
            s4m_report.comparison_picture(folders, *s4m.test_set(args, seed), folder / "comparison.png")
            print(f"Picture: {folder / 'comparison.png'}")
    print(f"{time.monotonic() - began:.0f} s in all. TensorBoard: tensorboard --logdir {args.output}")


if __name__ == "__main__":
    main()
