"""Run point-supervised ISTD on synthetic infrared scenes, from nothing to a table, on a CPU.

python tools/demo_istd.py --output output/demo-istd [--seed 1] [--vfm NAME FILE] [--schemes full pal semantic_prior]
It trains ALCNet with each scheme by tools/train_net.py, two at a time, prints IoU, nIoU, Pd and Fa on the test scenes
and leaves summary.json, summary.md and pictures of label evolution. The same command again goes on where it was.

The foundation model is with --vfm a timm ViT and the local file of its weights. Without it a tiny ViT has untrained,
seeded weights, because no weights are shipped: this shows that the whole method runs, not what a trained model's
semantics add. Its tokens only distinguish bright crops from dark ones and smooth ones from busy ones.
"""

from functools import partial
from pathlib import Path

from d2kit.files import write_png
from experiments import istd
from experiments.grid import Grid, grid_parser, run_grid
from experiments.label_evolution import evolution_picture
from istd.data.builtin import write_scenes_once
from istd.data.datasets import load_sirst


def main() -> None:
    """Run everything and print the table."""
    parser = grid_parser(__doc__, output="output/demo-istd")
    parser.add_argument("--schemes", nargs="+", choices=istd.SCHEMES, default=["semantic_prior", "pal", "full"])
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="seed of the scenes and the trainings")
    parser.add_argument("--vfm", nargs=2, metavar=("NAME", "FILE"), help="timm ViT and the local file of its weights")
    args = parser.parse_args()
    vfm = ["ISTD.VFM.NAME", args.vfm[0], "ISTD.VFM.CHECKPOINT", str(Path(args.vfm[1]).resolve())] if args.vfm else []
    data = args.output / f"seed{args.seed}" / "data"
    trainings = istd.plan(["alcnet"], args.schemes, overlays=["configs/quick/overlays/scenes.yaml"])
    options = [*vfm, *args.opts]
    sets = istd.data_options(data)
    grid = Grid(args.output, trainings, [args.seed], istd.final_figures, data=lambda *_: sets, options=options)
    write_data = partial(write_scenes_once, data, args.scenes, args.seed)
    run_grid(grid, args, "summary", {"scenes": args.scenes}, istd.all_tables, write_data)
    for training in trainings:
        masks = args.output / f"seed{args.seed}" / training.name / "pseudo_masks"
        if masks.is_dir():
            picture = masks.parent.with_name(f"evolution_{training.name}.png")
            write_png(picture, evolution_picture(masks, load_sirst(data, "train.txt")))
            print(f"Label evolution: {picture}")


if __name__ == "__main__":
    main()
