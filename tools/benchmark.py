"""Time the plain way and ours in one process, on the same weights and inputs; prints json.

Example:
    python tools/benchmark.py sam_refinement --segmenter vit_b --images 1 --repeats 3 --output benchmark.json
"""

import argparse
import json
import sys
from collections.abc import Sequence

import torch

import istd.benchmarks
import s4m.benchmarks
from d2kit.benchmark import ResultsDiffer, run_scenarios
from d2kit.files import atomic_write
from istd.deploy.benchmarks import network_table

PACKAGES = (s4m.benchmarks, istd.benchmarks)
SCENARIOS = {scenario.name: scenario for package in PACKAGES for scenario in package.SCENARIOS}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="see --list")
    parser.add_argument("--list", action="store_true", help="list the scenarios and stop")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each way (default: 5)")
    parser.add_argument("--output", help="json file to write")
    parser.add_argument("--table", help="Markdown file to write, with the table of the scenario istd_networks")
    for package in PACKAGES:
        package.add_arguments(parser)
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
        if options.output:
            with atomic_write(options.output, "w") as file:
                file.write(document + "\n")
        if options.table:
            with atomic_write(options.table, "w") as file:
                file.write(network_table(records))
    except (OSError, ValueError, ResultsDiffer) as error:
        sys.exit(f"benchmark: {error}")
    print(document)


if __name__ == "__main__":
    main()
