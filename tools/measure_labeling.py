"""Label drawn images with a run, and tell speed, the share of SAM in processor time, and memory along the way.

Example:
    python tools/measure_labeling.py --run output/shapes_stage1 --output output/measured --images 300 --size 512
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from d2kit.commands import run_command
from d2kit.files import atomic_write
from s4m.data.shapes import write_shapes
from s4m.labeling.run import label_folder
from s4m.sam import PromptableSegmenter

SAM_CALLS = ("encode", "decode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the tool."""
    parser.add_argument("--run", required=True, help="folder that a training on shapes wrote")
    parser.add_argument("--output", required=True, help="folder of the images and of measured.json")
    parser.add_argument("--images", type=int, default=300, help="number of images (default: 300)")
    parser.add_argument("--size", type=int, default=512, help="side of an image in pixels (default: 512)")
    parser.add_argument("--at", type=int, nargs="+", default=[50, 150, 300], help="images after which memory is read")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration keys, last of all")


def resident_mib() -> float:
    """Return the resident memory of this process in MiB, of Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Timer:
    """Sums the processor seconds of functions that it wraps, which do not call each other."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable) -> Callable:
        """Return the function with a clock around it."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - start

        return timed


def run(args: argparse.Namespace) -> None:
    """Draw, label, and print and write the figures."""
    output = Path(args.output)
    write_shapes(output / "shapes", args.images, seed=0, image_size=(args.size, args.size))
    timer = Timer()
    for name in SAM_CALLS:
        setattr(PromptableSegmenter, name, timer.wrap(getattr(PromptableSegmenter, name)))
    memory = {}
    times = {}

    def watch(images: Sequence, done: int) -> Iterator:
        timer.seconds = 0.0  # Calibration is over.
        start, start_busy = time.perf_counter(), time.process_time()
        for number, image in enumerate(images):
            yield image
            if number + 1 in args.at:
                memory[number + 1] = round(resident_mib())
        times["wall"], times["busy"] = time.perf_counter() - start, time.process_time() - start_busy

    labeled = label_folder(args.run, output / "shapes" / "images", output / "labels", options=args.opts, watch=watch)
    labels = json.loads(labeled.path.read_text(encoding="utf-8"))["annotations"]
    if not times:
        raise ValueError(f"'{labeled.path}' was there already: choose another --output.")
    figures = {"images": args.images, "size": args.size, "labels": len(labels), "resident_mib": memory}
    figures |= {"images_per_second": round(args.images / times["wall"], 2)}
    figures |= {"images_per_processor_second": round(args.images / times["busy"], 2)}
    figures |= {"share_of_sam": round(timer.seconds / times["busy"], 3)}
    document = json.dumps(figures, indent=2)
    with atomic_write(output / "measured.json", "w") as file:
        file.write(document + "\n")
    print(document)


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__]))
