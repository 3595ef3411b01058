"""Time the plain way and ours in one process, on the same weights and inputs, and print the records as json.

Example:
    python tools/benchmark.py sam_refinement --segmenter vit_b --images 1 --repeats 3 --output benchmark.json
"""

import argparse
import json
import sys

import torch

from benchmarks import coco_ap, istd_masks, istd_networks, istd_steps, s4m_guards, sam
from benchmarks.harness import run_scenarios
from d2kit.commands import run_command
from d2kit.files import atomic_write

S4M = (coco_ap.coco_ap, s4m_guards.s4m_guards, sam.sam_refinement, sam.structural_distillation)
ISTD_STEPS = (istd_masks.ir_metrics, istd_masks.label_evolution, istd_steps.inner_step, istd_steps.outer_step)
SCENARIOS = {scenario.__name__: scenario for scenario in (*S4M, *ISTD_STEPS, istd_networks.istd_networks)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the tool and of every scenario."""
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="see --list")
    parser.add_argument("--list", action="store_true", help="list the scenarios and stop")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each way (default: 5)")
    parser.add_argument("--output", help="json file to write")
    parser.add_argument("--table", help="Markdown file to write, with the table of the scenario istd_networks")
    for topic in (sam, coco_ap, istd_masks, istd_steps, istd_networks):
        topic.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Run the scenarios, write the files and print the records; a ValueError says which results differ."""
    if options.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name}: {scenario.__doc__}")
        return
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown or not options.scenarios:
        wrong = f"There is no scenario {', '.join(unknown)}" if unknown else "A scenario must be named"
        raise argparse.ArgumentError(None, f"{wrong}; the scenarios are {', '.join(SCENARIOS)}.")
    if options.repeats < 1:
        raise argparse.ArgumentError(None, "--repeats must be 1 or more.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentError(None, "--device is cuda, but torch finds no GPU here.")
    records = list(run_scenarios([SCENARIOS[name] for name in options.scenarios], options))
    document = json.dumps(records, indent=2)
    for path, text in ((options.output, document + "\n"), (options.table, istd_networks.network_table(records))):
        if path:
            with atomic_write(path, "w") as file:
                file.write(text)
    print(document)


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__]))
