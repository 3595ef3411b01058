"""Write what the mappers and the labeler of a training make of its first images, as one page of HTML.

    s4m browse quick/shapes_stage1.yaml --number 4 --output views.html
    s4m browse output/stage2/config.yaml --checkpoint output/stage2/model_best.pth --output views.html

The page has the weak views of labeled images with their labels. Of unlabeled images it has the weak view, the
pseudo-labels before and after SAM, the view that copy-paste mixes, and the strong view. The images are those of the
training's first batches, with the same random numbers. Without --checkpoint, the teacher is that of the training's
start.
"""

import argparse

from d2kit.config_files import compose_config
from d2kit.ranges import check_values
from d2kit.report.page import page_path
from s4m import add_s4m_config
from s4m.engine.browse import write_views
from s4m.engine.schedule import scale_schedule
from s4m.ranges import S4M_VALUES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("config", metavar="CONFIG", help="a path, or a shipped file's name")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="merged on top; repeatable")
    parser.add_argument("--number", type=int, default=8, metavar="N", help="images of each stream (default: 8)")
    parser.add_argument("--checkpoint", default="", help="file of a training of stage 2, whose teacher labels")
    parser.add_argument("--output", required=True, help="file to write, .html, or its folder")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys, last of all"
    )


def run(args: argparse.Namespace) -> None:
    """Write the page and print its path."""
    if args.number < 1:
        raise argparse.ArgumentError(None, "--number must be positive.")
    cfg = compose_config([args.config, *args.overlay], args.opts, [add_s4m_config])
    check_values(cfg, S4M_VALUES)
    cfg.SEED = max(cfg.SEED, 0)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.freeze()
    path = page_path(args.output, "browse.html")
    write_views(scale_schedule(cfg), path, args.number, args.checkpoint)
    print(path)
