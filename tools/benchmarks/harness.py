"""The harness lets ways to one result alternate in one process on the same inputs, and refuses unequal results."""

import argparse
import gc
import itertools
import math
import os
import statistics
import timeit
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import timer

Way = Callable[[], Any]

NOT_SLOWER = 0.97  # The medians of equal work differ by this much, so this is the least speed ratio of "not slower".
SAMPLE_SECONDS = 0.02  # A way that is quicker than this runs several times for one sample.


class ResultsDiffer(ValueError):
    """Two ways that should give one result do not."""


class Goal(NamedTuple):
    """A goal is a ratio plain / ours that a comparison should reach."""

    goal: str  # This tells the goal in words.
    quantity: str  # This is "speed_ratio" (of seconds) or "memory_ratio" (of peaks).
    at_least: float

    def judge(self, ratios: Mapping[str, float]) -> dict[str, Any]:
        """Return the goal, the value and whether it is met; nan, a ratio to no memory at all, meets no goal."""
        value = ratios[self.quantity]
        return {**self._asdict(), "value": value, "met": value >= self.at_least}


def largest_difference(name: str) -> Callable[[Any, Any], dict[str, float]]:
    """Return a function from two tensors or arrays to the largest difference of their values, under this name."""
    return lambda plain, ours: {name: abs(plain - ours).max()}


class Comparison(NamedTuple):
    """A comparison names two ways that should give one result."""

    plain: str
    ours: str
    difference: Callable[[Any, Any], dict[str, float]]  # Both results give named numbers, 0 if they agree.
    tolerance: Mapping[str, float]  # Numbers up to these values count as equal.
    goals: Sequence[Goal] = ()

    def check(self, results: Mapping[str, Any]) -> dict[str, float]:
        """Return the differences of the results; ResultsDiffer names those that are nan or above their tolerance."""
        measured = self.difference(results[self.plain], results[self.ours])
        differences = {name: float(value) for name, value in measured.items()}
        excess = {name: value for name, value in differences.items() if not value <= self.tolerance[name]}
        if excess:
            wrong = ", ".join(f"{name} {value:g} > {self.tolerance[name]:g}" for name, value in excess.items())
            raise ResultsDiffer(f"'{self.ours}' does not give the result of '{self.plain}': {wrong}.")
        return differences


class Case(NamedTuple):
    """A case is one setting of a scenario: ways that alternate in this order, and which of them to compare."""

    settings: Mapping[str, Any]  # They tell in the record what was run.
    ways: Mapping[str, Way]
    comparisons: Sequence[Comparison]
    memory: str = "torch"  # This kind of memory is measured, see `peak_bytes`.


# A scenario turns the tool's options into cases. A case may release what it needs when the next one is taken.
Scenario = Callable[[argparse.Namespace], Iterable[Case]]


def describe_device(device: str) -> dict[str, Any]:
    """Return the device's type, its name or the number of threads, and torch's version, but not the machine's name."""
    detail = {"name": torch.cuda.get_device_name()} if device == "cuda" else {"threads": torch.get_num_threads()}
    return {"type": device, **detail, "torch": torch.__version__}


def time_alternately(ways: Mapping[str, Way], repeats: int) -> dict[str, list[float]]:
    """Return `repeats` samples of each way's seconds, taken in turn, so that the machine's other work hits all alike.

    The ways must have run before. A way that is too quick for the clock runs several times for a sample.
    """
    samples: dict[str, list[float]] = {name: [] for name in ways}
    numbers = dict.fromkeys(ways, 1)
    for turn in range(repeats):
        for name, way in ways.items():
            seconds = timeit.timeit(way, timer=timer, number=numbers[name]) / numbers[name]
            if turn == 0 and seconds < SAMPLE_SECONDS:
                numbers[name] = math.ceil(SAMPLE_SECONDS / max(seconds, 1e-7))
                seconds = timeit.timeit(way, timer=timer, number=numbers[name]) / numbers[name]
            samples[name].append(seconds)
    return samples


def peak_bytes(way: Way, memory: str = "torch", device: str = "cpu") -> int:
    """Return the most memory that a run holds beyond what was held before; inputs and weights do not count.

    Memory "python" is what Python's allocators and NumPy's hand out (tracemalloc). Memory "torch" is what torch's
    allocator of the device hands out: it counts temporaries inside of operators, but not the libraries' own memory.
    """
    gc.collect()
    if memory == "python":
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        way()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak - before
    if device == "cpu":
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # Otherwise the profiler reports a missing GPU as an error.
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            way()
        changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        sizes = [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]
        return max(itertools.accumulate(sizes, initial=0))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    way()
    return torch.cuda.max_memory_allocated() - before


def run_case(case: Case, repeats: int, device: str = "cpu") -> dict[str, Any]:
    """Warm up and compare the results, then measure memory, then time.

    Returns:
        what goes into the json: settings; of each way its median, fastest and slowest sample (s) and its peak memory
        (MiB); of each comparison the differences and tolerances, the ratios plain / ours, and the goals.

    Raises:
        ResultsDiffer: the results differ; nothing is measured.
    """
    results = {name: way() for name, way in case.ways.items()}
    differences = [comparison.check(results) for comparison in case.comparisons]
    results.clear()
    peaks = {name: peak_bytes(way, case.memory, device) / 2**20 for name, way in case.ways.items()}
    ways = {}
    for name, seconds in time_alternately(case.ways, repeats).items():
        times = {"median_s": statistics.median(seconds), "fastest_s": min(seconds), "slowest_s": max(seconds)}
        ways[name] = {**times, "peak_mib": peaks[name]}
    reports = []
    for comparison, difference in zip(case.comparisons, differences, strict=True):
        plain, ours = ways[comparison.plain], ways[comparison.ours]
        ratios = {"speed_ratio": plain["median_s"] / ours["median_s"]}
        ratios["memory_ratio"] = plain["peak_mib"] / ours["peak_mib"] if ours["peak_mib"] else math.nan
        equality = {"difference": difference, "tolerance": dict(comparison.tolerance)}
        goals = [goal.judge(ratios) for goal in comparison.goals]
        reports.append({"plain": comparison.plain, "ours": comparison.ours, **ratios, **equality, "goals": goals})
    return {"settings": dict(case.settings), "memory": case.memory, "ways": ways, "comparisons": reports}


def run_scenarios(scenarios: Iterable[Scenario], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the record of each case of the scenarios, with the scenario's name and the device.

    The options hold `device`, `repeats` and whatever the scenarios read.
    """
    for scenario in scenarios:
        for case in scenario(options):
            record = run_case(case, options.repeats, options.device)
            yield {"scenario": scenario.__name__, "device": describe_device(options.device)} | record
