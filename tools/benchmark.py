"""Time the plain way and ours in one process, on the same weights and inputs; prints json.

Example:
    python tools/benchmark.py sam_refinement --segmenter vit_b --images 1 --repeats 3 --output benchmark.json
"""

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from benchmarks import coco_ap, istd_masks, istd_networks, istd_steps, s4m_guards, sam  # noqa: F401 (scenarios)
from benchmarks.harness import SCENARIOS, ResultsDiffer, run_scenarios
from d2kit.files import atomic_write


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="see --list")
    parser.add_argument("--list", action="store_true", help="list the scenarios and stop")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each way (default: 5)")
    parser.add_argument("--output", help="json file to write")
    parser.add_argument("--table", help="Markdown file to write, with the table of the scenario istd_networks")
    for name, topics in {"s4m": (sam, coco_ap), "istd": (istd_masks, istd_steps, istd_networks)}.items():
        group = parser.add_argument_group(name)
        for topic in topics:
            topic.add_arguments(group)
    options = parser.parse_args(argv)
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if not options.scenarios and not options.list:
        parser.error("name a scenario, or --list them")
    if options.repeats < 1:
        parser.error("--repeats must be 1 or more")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch finds no GPU here")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    if options.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name}: {scenario.description}")
        return
    try:
        records = list(run_scenarios([SCENARIOS[name] for name in options.scenarios], options))
        document = json.dumps(records, indent=2)
        for path, text in ((options.output, document + "\n"), (options.table, istd_networks.network_table(records))):
            if path:
                with atomic_write(path, "w") as file:
                    file.write(text)
    except (OSError, ValueError, ResultsDiffer) as error:
        sys.exit(f"benchmark: {error}")
    print(document)


if __name__ == "__main__":
    main()
