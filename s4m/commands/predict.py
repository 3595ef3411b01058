r"""Find the instances in images, folders and videos with a trained network.

    s4m predict data/images --run output/stage2 --output found
    s4m predict cells.png clip.mp4 --run output/stage2 --network teacher --tile 128 --output found

The folder `found` gets overlays with the names and scores of the instances, detections.csv, and detections.json in
COCO format (RLE masks, scores, the names of the classes, the seconds of each image). Rows are written when their image
is done; until the end of the run, detections.jsonl stands for detections.json. A file that cannot be read is named and
left out; the exit status is then 1. --run takes the best checkpoint of a training, or else its newest, and names it.
With an exported file as --model, Detectron2 is not needed. A network of tiles from `s4m tiles` takes the same --tile.
"""

import argparse

from d2kit import require_detectron2
from d2kit.sources import find_sources
from s4m.data.images import IMAGE_SUFFIXES
from s4m.deploy.detector import Detector
from s4m.deploy.instance_run import InstanceRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("inputs", nargs="+", help="images, videos, and folders")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--run", help="OUTPUT_DIR of a training")
    parser.add_argument("--network", choices=("student", "teacher"), help="of --run (default: S4M.TEST.NETWORK)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="of --run (default: its own)")
    parser.add_argument("--model", help=".onnx file of `s4m export`")
    parser.add_argument("--device", help="cpu or cuda (default: MODEL.DEVICE of --run, or cpu)")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score of an instance (default: 0.5)")
    parser.add_argument("--tile", type=int, default=0, help="side of a slice, pixels; 0: no slices (default: 0)")
    parser.add_argument("--overlap", type=int, help="overlap of slices, pixels (default: a quarter of --tile)")


def build_detector(args: argparse.Namespace) -> Detector:
    """Build the detector that the arguments name."""
    if args.model:
        from s4m.deploy.onnx_predictor import OnnxPredictor

        return OnnxPredictor(args.model, args.device or "cpu")
    require_detectron2("s4m predict --run")
    from s4m.deploy.predictor import RunDetector, S4MPredictor

    predictor = S4MPredictor.from_run(args.run, args.network, class_names=args.classes or (), device=args.device)
    print(f"{predictor.network} of {predictor.cfg.MODEL.WEIGHTS}")
    return RunDetector(predictor)


def run(args: argparse.Namespace) -> int:
    """Predict as the arguments say and return the exit status, which is 1 if a file was left out."""
    if (args.model is None) == (args.run is None):
        raise argparse.ArgumentError(None, "give either --model or --run.")
    if args.model and (args.network or args.classes):
        raise argparse.ArgumentError(None, "--network and --classes belong to --run.")
    if not 0 <= args.threshold <= 1:
        raise argparse.ArgumentError(None, "--threshold must be within 0 to 1.")
    overlap = args.tile // 4 if args.overlap is None else args.overlap
    if args.tile < 0 or (args.tile and not 0 < overlap < args.tile):
        raise argparse.ArgumentError(None, "0 < --overlap < --tile is needed, or --tile 0.")
    sources, refused = find_sources(args.inputs, args.output, InstanceRun.RESULTS.values(), IMAGE_SUFFIXES)
    options = {"threshold": args.threshold, "tile": args.tile, "overlap": overlap}
    prediction = InstanceRun(build_detector(args), args.output, **options)
    prediction.failed.update(refused)
    status = prediction.add_all(sources)
    count = sum(len(record["annotations"]) for record in prediction.records)
    seconds = sum(record["seconds"] for record in prediction.records) / max(1, len(prediction.records))
    print(f"{count} instances in {len(prediction.records)} images and frames, {seconds:.3g} s each: {args.output}")
    return status
