#!/usr/bin/env python
r"""Detect infrared small targets in images, folders and videos of any size.

    python tools/detect.py images/ clip.mp4 --model student.onnx --output found
    python tools/detect.py images/ --config-file output/run/config.yaml --weights output/run/model_best.pth \
        --output found

The folder `found` gets masks, overlays, and detections.csv and detections.json: centroid x, y and box x0, y0, x1, y1 in
pixels (right and lower edges exclusive), area in pixels, score (largest probability). A file that cannot be read is
named and left out; the exit status is then 1.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from detectron2.config import get_cfg
from tqdm import tqdm

from istd import add_istd_config
from istd.deploy import ISTDPredictor
from istd.deploy.detect import DetectionRun
from istd.deploy.predictor import OVERLAP, TILE
from istd.deploy.sources import find_sources
from s4m import add_s4m_config


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="images (16-bit ones too), videos, and folders of them")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--model", help=".onnx, .pt or .pth of tools/export_student.py, or a published LESPS file")
    parser.add_argument("--config-file", help="configuration of a training; its config.yaml will do")
    parser.add_argument("--weights", help="checkpoint of that training (default: MODEL.WEIGHTS)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threshold", type=float, help="probability of a target (default: the network's own)")
    parser.add_argument("--tile", type=int, default=TILE, help=f"side of a tile, pixels; 0: no tiles (default: {TILE})")
    parser.add_argument("--overlap", type=int, default=OVERLAP, help=f"of tiles, pixels (default: {OVERLAP})")
    options = parser.parse_args(arguments)
    if (options.model is None) == (options.config_file is None):
        parser.error("give either --model or --config-file.")
    if options.tile < 0 or (options.tile and not 0 <= options.overlap < options.tile):
        parser.error("0 <= --overlap < --tile is needed, or --tile 0.")
    return options


def build_predictor(options: argparse.Namespace) -> ISTDPredictor:
    """The predictor that the options name."""
    chosen = {"threshold": options.threshold, "tile": options.tile, "overlap": options.overlap}
    if options.model:
        return ISTDPredictor.from_file(options.model, options.device, **chosen)
    cfg = get_cfg()
    add_s4m_config(cfg)  # tools/train_net.py writes the keys of both packages
    add_istd_config(cfg)
    cfg.merge_from_file(options.config_file, allow_unsafe=False)
    cfg.MODEL.DEVICE = options.device
    cfg.MODEL.WEIGHTS = options.weights or cfg.MODEL.WEIGHTS
    return ISTDPredictor(cfg, **chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Detect as the options say; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        predictor = build_predictor(options)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"detect: {error}")
    sources, refused = find_sources(options.inputs)
    run = DetectionRun(predictor, options.output)
    run.failed.update(refused)
    try:
        for source in tqdm(sources, desc="files", unit="file"):
            run.add(source, partial(tqdm, desc=source.name, unit="frame", leave=False))
    finally:  # an interrupted run keeps the tables of what is done
        run.close()
    found = sum(len(record["detections"]) for record in run.records)
    print(f"{found} detections in {len(run.records)} images and frames: {options.output}")
    for file, reason in run.failed.items():
        print(f"left out {file}: {reason}", file=sys.stderr)
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
