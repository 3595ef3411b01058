r"""Detect infrared small targets in images, folders and videos of any size.

    istd detect images/ clip.mp4 --model student.onnx --output detections
    istd detect images/ --run output/alcnet --output detections
    istd detect images/ --config-file output/alcnet/config.yaml --weights model.pth --output detections

The folder `detections` gets masks, overlays, detections.csv and detections.json. The tables hold the centroid x, y and
the box x0, y0, x1, y1 in pixels (right and lower edges exclusive), the area in pixels and the score (largest
probability) of each detection. Rows are written when their image is done; until the end of the run, detections.jsonl
stands for detections.json. A file that cannot be read is named and left out; the exit status is then 1. --run
takes the best checkpoint of a training, or else its newest, and names it. With an exported file as --model, Detectron2
is not needed.
"""

import argparse

from d2kit.sources import find_sources
from istd.data.frames import count_frames
from istd.data.images import EXTENSIONS
from istd.deploy import ISTDPredictor
from istd.deploy.detect import TargetRun
from istd.deploy.predictor import OVERLAP, TILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "inputs", nargs="+", help="images, videos, TIFF files of several pages, and folders"
    )
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--model", help=".onnx, .pt or .pth of `istd export`, or a published LESPS file")
    parser.add_argument("--trust", action="store_true", help="run a .pt file, which is a program")
    parser.add_argument("--run", help="OUTPUT_DIR of a training")
    parser.add_argument("--config-file", help="configuration of a training; its config.yaml will do")
    parser.add_argument("--weights", help="checkpoint of that training (default: MODEL.WEIGHTS)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threshold", type=float, help="probability of a target (default: the network's own)")
    parser.add_argument(
        "--range", help="percentiles, type or LOW..HIGH of raw values (default: the network's own)"
    )
    parser.add_argument("--tile", type=int, default=TILE, help=f"side of a tile, pixels; 0: no tiles (default: {TILE})")
    parser.add_argument("--overlap", type=int, default=OVERLAP, help=f"overlap of tiles, pixels (default: {OVERLAP})")


def build_predictor(args: argparse.Namespace) -> ISTDPredictor:
    """Build the predictor that the arguments name."""
    options = {"threshold": args.threshold, "value_range": args.range, "tile": args.tile, "overlap": args.overlap}
    if args.model:
        return ISTDPredictor.from_file(args.model, args.device, trust=args.trust, **options)
    from d2kit.config_files import compose_config  # This needs Detectron2.
    from d2kit.run_folder import checkpoint_to_use, config_of
    from istd import add_istd_config

    config = config_of(args.run) if args.run else args.config_file
    cfg = compose_config([config], ["MODEL.DEVICE", args.device], [add_istd_config])
    if args.run:
        cfg.MODEL.WEIGHTS = str(checkpoint_to_use(args.run))
        print(f"student of {cfg.MODEL.WEIGHTS}")
    elif args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    return ISTDPredictor(cfg, **options)


def run(args: argparse.Namespace) -> int:
    """Detect as the arguments say and return the exit status, which is 1 if a file was left out."""
    if sum(value is not None for value in (args.model, args.run, args.config_file)) != 1:
        raise argparse.ArgumentError(None, "give one of --model, --run and --config-file.")
    if args.weights and not args.config_file:
        raise argparse.ArgumentError(None, "--weights belongs to --config-file.")
    if args.tile < 0 or (args.tile and not 0 <= args.overlap < args.tile):
        raise argparse.ArgumentError(None, "0 <= --overlap < --tile is needed, or --tile 0.")
    results = TargetRun.RESULTS.values()
    sources, refused = find_sources(args.inputs, args.output, results, EXTENSIONS, count_frames)
    detection = TargetRun(build_predictor(args), args.output)
    detection.failed.update(refused)
    status = detection.add_all(sources)
    count = sum(len(record["detections"]) for record in detection.records)
    print(f"{count} detections in {len(detection.records)} images and frames: {args.output}")
    return status
