"""Benchmarks: the plain way and ours in one process, alternating, on the same inputs, with equal results asserted."""

import argparse
import gc
import math
import os
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Way = Callable[[], Any]

NOT_SLOWER = 0.97  # least speed of what is "not slower": medians of equal work differ by this much
_SAMPLE_SECONDS = 0.02  # a way that is quicker runs several times for one sample


class ResultsDiffer(RuntimeError):
    """Two ways that should give one result do not."""


@dataclass(frozen=True)
class Goal:
    """What a comparison should reach.

    Attributes:
        text: the goal in words.
        quantity: "speed_ratio" (of seconds) or "memory_ratio" (of peaks), each plain / ours.
        at_least: least value of the quantity.
    """

    text: str
    quantity: str
    at_least: float

    def judge(self, values: Mapping[str, float]) -> dict:
        """The goal, the value and whether it is met; a value that could not be measured meets nothing."""
        value = values[self.quantity]
        return {
            "goal": self.text,
            "quantity": self.quantity,
            "at_least": self.at_least,
            "value": value,
            "met": value >= self.at_least,
        }


@dataclass(frozen=True)
class Comparison:
    """Two ways to one result.

    Attributes:
        plain, ours: names of the ways.
        difference: from both results to named numbers, all 0 for equal results.
        tolerance: the largest value of each of these numbers that counts as equal.
        goals: what should be reached.
    """

    plain: str
    ours: str
    difference: Callable[[Any, Any], dict[str, float]]
    tolerance: Mapping[str, float]
    goals: Sequence[Goal] = ()

    def check(self, results: Mapping[str, Any]) -> dict[str, float]:
        """The differences of the ways' results; ResultsDiffer names those above their tolerance (nan is)."""
        found = {name: float(value) for name, value in self.difference(results[self.plain], results[self.ours]).items()}
        if found.keys() != self.tolerance.keys():
            raise ValueError(f"differences {sorted(found)} do not go with tolerances {sorted(self.tolerance)}.")
        wrong = [
            f"{name} {found[name]:g} > {most:g}" for name, most in self.tolerance.items() if not found[name] <= most
        ]
        if wrong:
            raise ResultsDiffer(f"'{self.ours}' does not give the result of '{self.plain}': {', '.join(wrong)}.")
        return found


@dataclass(frozen=True)
class Case:
    """One setting of a scenario.

    Attributes:
        settings: what was run, for the record.
        ways: what to run, by name; they alternate in this order.
        comparisons: which of them to compare.
        memory: which one is measured, see `peak_bytes`.
    """

    settings: Mapping[str, Any]
    ways: Mapping[str, Way]
    comparisons: Sequence[Comparison]
    memory: str = "torch"


@dataclass(frozen=True)
class Scenario:
    """A named benchmark.

    Attributes:
        name, description: for the list.
        cases: from the tool's options to the cases; what a case needs may be released when the next one is asked for.
    """

    name: str
    description: str
    cases: Callable[[argparse.Namespace], Iterable[Case]] = field(repr=False)


def describe_device(device: str | torch.device) -> dict[str, Any]:
    """Kind of the device, its name or the number of threads, and torch's version; nothing that names the machine."""
    device = torch.device(device)
    if device.type == "cuda":
        detail = {"name": torch.cuda.get_device_name(device)}
    else:
        detail = {"threads": torch.get_num_threads()}
    return {"type": device.type, **detail, "torch": torch.__version__}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(way: Way, number: int, device: torch.device) -> float:
    """Seconds of one run, the mean of `number` runs."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(number):
        way()
    _synchronize(device)
    return (time.perf_counter() - start) / number


def time_alternately(
    ways: Mapping[str, Way], repeats: int, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each way, `repeats` samples each, in turn (A B A B): what else the machine does hits all alike.

    The ways were run before. One that is too quick for the clock runs several times for a sample.
    """
    device = torch.device(device)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    numbers = dict.fromkeys(ways, 1)
    for turn in range(repeats):
        for name, way in ways.items():
            seconds = _seconds(way, numbers[name], device)
            if turn == 0 and seconds < _SAMPLE_SECONDS:
                numbers[name] = math.ceil(_SAMPLE_SECONDS / max(seconds, 1e-7))
                seconds = _seconds(way, numbers[name], device)
            samples[name].append(seconds)
    return samples


def peak_bytes(way: Way, memory: str = "torch", device: torch.device | str = "cpu") -> int:
    """Most memory that a run holds above what was held before it; its result counts, its inputs and weights do not.

    Args:
        way: run once.
        memory: "python" counts what Python's allocators and NumPy's hand out (tracemalloc); "torch" counts what
            torch's allocator of the device does: temporaries inside of operators too, what libraries keep for
            themselves not.
        device: of the tensors.
    """
    gc.collect()
    if memory == "python":
        return _python_peak(way)
    device = torch.device(device)
    return _cuda_peak(way, device) if device.type == "cuda" else _cpu_tensor_peak(way)


def _python_peak(way: Way) -> int:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        way()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _cuda_peak(way: Way, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    way()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_tensor_peak(way: Way) -> int:
    """Follow every allocation and release that torch's CPU allocator reports to the profiler."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports a missing GPU as an error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = way()
    del result
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def run_case(case: Case, repeats: int, device: torch.device | str = "cpu") -> dict[str, Any]:
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
    samples = time_alternately(case.ways, repeats, device)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "settings": dict(case.settings),
        "memory": case.memory,
        "ways": {
            name: {
                "median_s": medians[name],
                "fastest_s": min(samples[name]),
                "slowest_s": max(samples[name]),
                "peak_mib": peaks[name],
            }
            for name in case.ways
        },
        "comparisons": [
            _report(comparison, difference, medians, peaks)
            for comparison, difference in zip(case.comparisons, differences, strict=True)
        ],
    }


def _report(
    comparison: Comparison, difference: dict[str, float], medians: Mapping[str, float], peaks: Mapping[str, float]
) -> dict[str, Any]:
    plain, ours = comparison.plain, comparison.ours
    values = {
        name: measured[plain] / measured[ours] if measured[ours] else math.nan
        for name, measured in (("speed_ratio", medians), ("memory_ratio", peaks))
    }
    return {
        "plain": plain,
        "ours": ours,
        **values,
        "difference": difference,
        "tolerance": dict(comparison.tolerance),
        "goals": [goal.judge(values) for goal in comparison.goals],
    }


def run_scenarios(scenarios: Iterable[Scenario], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run scenarios one after the other.

    Args:
        scenarios: what to run.
        options: `device`, `repeats` and whatever the scenarios read.

    Yields:
        the record of each case, with its scenario's name and the device.
    """
    for scenario in scenarios:
        for case in scenario.cases(options):
            record = run_case(case, options.repeats, options.device)
            yield {"scenario": scenario.name, "device": describe_device(options.device)} | record
