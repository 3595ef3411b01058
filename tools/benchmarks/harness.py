"""The harness: two ways to one result alternate in one process on the same inputs, and unequal results are an error."""

import argparse
import gc
import itertools
import math
import os
import statistics
import time
import timeit
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

Way = Callable[[], Any]

NOT_SLOWER = 0.97  # The medians of equal work differ by this much, so this is the least speed ratio of "not slower".
SAMPLE_SECONDS = 0.02  # A way that is quicker than this runs several times for one sample.


class ResultsDiffer(RuntimeError):
    """Two ways that should give one result do not."""


class Goal(NamedTuple):
    """A ratio plain / ours that a comparison should reach."""

    goal: str  # The goal in words.
    quantity: str  # "speed_ratio" (of seconds) or "memory_ratio" (of peaks).
    at_least: float

    def judge(self, ratios: Mapping[str, float]) -> dict:
        """The goal, the value and whether it is met; nan, which stands for "not measured", meets nothing."""
        value = ratios[self.quantity]
        return {**self._asdict(), "value": value, "met": value >= self.at_least}


class Comparison(NamedTuple):
    """Two ways, by name, that should give one result."""

    plain: str
    ours: str
    difference: Callable[[Any, Any], dict[str, float]]  # From both results to named numbers, 0 for equal results.
    tolerance: Mapping[str, float]  # The largest value of each of these numbers that counts as equal.
    goals: Sequence[Goal] = ()

    def check(self, results: Mapping[str, Any]) -> dict[str, float]:
        """The differences of the ways' results; ResultsDiffer names those above their tolerance, nan among them."""
        measured = self.difference(results[self.plain], results[self.ours])
        differences = {name: float(value) for name, value in measured.items()}
        if differences.keys() != self.tolerance.keys():
            raise ValueError(f"differences {sorted(differences)} do not go with tolerances {sorted(self.tolerance)}.")
        excess = {name: value for name, value in differences.items() if not value <= self.tolerance[name]}
        if excess:
            wrong = ", ".join(f"{name} {value:g} > {self.tolerance[name]:g}" for name, value in excess.items())
            raise ResultsDiffer(f"'{self.ours}' does not give the result of '{self.plain}': {wrong}.")
        return differences


class Case(NamedTuple):
    """One setting of a scenario: ways that alternate in the order of their names, and which of them to compare."""

    settings: Mapping[str, Any]  # What was run, for the record.
    ways: Mapping[str, Way]
    comparisons: Sequence[Comparison]
    memory: str = "torch"  # The kind of memory that is measured, as in `peak_bytes`.


class Scenario(NamedTuple):
    """A named benchmark; a case may release what it needs when the next one is drawn from the iterator."""

    name: str
    description: str
    cases: Callable[[argparse.Namespace], Iterable[Case]]


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, description: str) -> Callable[..., Scenario]:
    """A decorator that makes a Scenario of a function from the tool's options to the cases, and registers it."""

    def register(cases: Callable[[argparse.Namespace], Iterable[Case]]) -> Scenario:
        return SCENARIOS.setdefault(name, Scenario(name, description, cases))

    return register


def describe_device(device: str) -> dict[str, Any]:
    """Kind of the device, its name or the number of threads, and torch's version; nothing that names the machine."""
    kind = torch.device(device).type
    detail = {"name": torch.cuda.get_device_name(device)} if kind == "cuda" else {"threads": torch.get_num_threads()}
    return {"type": kind, **detail, "torch": torch.__version__}


def time_alternately(ways: Mapping[str, Way], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each way, `repeats` samples each, in turn (A B A B), so that the machine's other work hits all alike.

    The ways must have run before. A way that is too quick for the clock runs several times for a sample.
    """

    def clock() -> float:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    samples: dict[str, list[float]] = {name: [] for name in ways}
    numbers = dict.fromkeys(ways, 1)
    for turn in range(repeats):
        for name, way in ways.items():
            seconds = timeit.timeit(way, timer=clock, number=numbers[name]) / numbers[name]
            if turn == 0 and seconds < SAMPLE_SECONDS:
                numbers[name] = math.ceil(SAMPLE_SECONDS / max(seconds, 1e-7))
                seconds = timeit.timeit(way, timer=clock, number=numbers[name]) / numbers[name]
            samples[name].append(seconds)
    return samples


def peak_bytes(way: Way, memory: str = "torch", device: str = "cpu") -> int:
    """Most memory that a run holds above what was held before it; its result counts, its inputs and weights do not.

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
    if torch.device(device).type == "cpu":
        return _cpu_tensor_peak(way)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    way()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_tensor_peak(way: Way) -> int:
    """Follow every allocation and release that torch's CPU allocator reports to the profiler."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # Otherwise it reports a missing GPU as an error.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = way()
    del result
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes, initial=0))


def run_case(case: Case, repeats: int, device: str = "cpu") -> dict[str, Any]:
    """Warm up and compare the results, then measure memory, then time.

    Returns:
        what goes into the json: settings; of each way its median, fastest and slowest sample (s) and its peak memory
        (MiB); of each comparison the differences and tolerances, the ratios plain / ours, and the goals.

    Raises:
        ResultsDiffer: before anything is measured.
    """
    results = {name: way() for name, way in case.ways.items()}
    differences = [comparison.check(results) for comparison in case.comparisons]
    results.clear()
    peaks = {name: peak_bytes(way, case.memory, device) / 2**20 for name, way in case.ways.items()}
    ways = {}
    for name, seconds in time_alternately(case.ways, repeats, device).items():
        times = {"median_s": statistics.median(seconds), "fastest_s": min(seconds), "slowest_s": max(seconds)}
        ways[name] = {**times, "peak_mib": peaks[name]}
    reports = [_report(comparison, ways, gap) for comparison, gap in zip(case.comparisons, differences, strict=True)]
    return {"settings": dict(case.settings), "memory": case.memory, "ways": ways, "comparisons": reports}


def _report(comparison: Comparison, ways: Mapping[str, Mapping], difference: dict[str, float]) -> dict[str, Any]:
    ratios = {}
    for ratio, measured in (("speed_ratio", "median_s"), ("memory_ratio", "peak_mib")):
        plain, ours = ways[comparison.plain][measured], ways[comparison.ours][measured]
        ratios[ratio] = plain / ours if ours else math.nan
    names = {"plain": comparison.plain, "ours": comparison.ours}
    equality = {"difference": difference, "tolerance": dict(comparison.tolerance)}
    return {**names, **ratios, **equality, "goals": [goal.judge(ratios) for goal in comparison.goals]}


def run_scenarios(scenarios: Iterable[Scenario], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The record of each case of the scenarios, with its scenario's name and the device.

    The options hold `device`, `repeats` and whatever the scenarios read.
    """
    for name, _, cases in scenarios:
        for case in cases(options):
            record = run_case(case, options.repeats, options.device)
            yield {"scenario": name, "device": describe_device(options.device)} | record
