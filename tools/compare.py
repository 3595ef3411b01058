"""Compare the supervised baseline, a mean teacher and S4M on one data set; the same command again goes on.

python tools/compare.py --output output/demo                                  # synthetic shapes, 5 % labels, one seed
python tools/compare.py --prefix dsb2018 --percent 10 --seeds 1 2 3 --output output/dsb2018_10 \\
    --train JSON IMAGES --test JSON IMAGES [--opts KEY VALUE ...]
python tools/compare.py --student mask2former --output output/mask2former     # or --backbone vit, or both
Mask2Former on dsb2018 needs tiles: cut the images of --train and --test by tools/make_tiles.py first.
It prints the commands of the trainings, then their AP; it leaves summary.json and .md, pictures and TensorBoard logs.
"""

from functools import partial

from experiments import s4m
from experiments.grid import grid_parser, run_grid
from experiments.s4m_report import comparison_picture, comparison_table

IN_PICTURE = ("supervised", "mean_teacher", "stage2")


def main() -> None:
    """Run the trainings of all seeds, print the table and draw the pictures."""
    args = s4m.parse_arguments(grid_parser(__doc__))
    grid = s4m.make_grid(args, s4m.COMPARISON, options=args.opts)
    run_grid(grid, args, "summary", s4m.data_settings(args), comparison_table, partial(s4m.write_data, args))
    for seed in args.seeds:
        folder = args.output / f"seed{seed}"
        rows = [row for row in grid.rows() if row.name in IN_PICTURE and str(seed) not in row.failures]
        folders = {row.title: folder / row.name for row in rows}
        comparison_picture(folders, *s4m.json_and_images(args, "test", seed), folder / "comparison.png")
        print(f"Picture: {folder / 'comparison.png'}")


if __name__ == "__main__":
    main()
