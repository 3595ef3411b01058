"""The harness: records, refusal of wrong results, alternation, memory."""

import json
import math

import numpy as np
import pytest
import torch

from benchmarks import harness
from benchmarks.harness import Case, Comparison, Goal, ResultsDiffer

MIB = 2**20


def case_of(results, tolerance=0.0, goals=(), memory="python"):
    """A case whose ways return the given numbers and note the order in which they ran."""
    order = []

    def way(name):
        def run():
            order.append(name)
            return results[name]

        return run

    comparison = Comparison("plain", "ours", lambda a, b: {"value": abs(a - b)}, {"value": tolerance}, goals)
    return Case({"size": 3}, {name: way(name) for name in results}, [comparison], memory), order


def test_record_of_a_case():
    goals = [Goal("cannot fail", "speed_ratio", 0.0), Goal("cannot be met", "speed_ratio", 1e12)]
    case, _ = case_of({"plain": 1.0, "ours": 1.25}, tolerance=0.5, goals=goals)
    record = harness.run_case(case, repeats=3)
    assert json.loads(json.dumps(record)) == record
    assert record["settings"] == {"size": 3} and record["memory"] == "python"
    assert list(record["ways"]) == ["plain", "ours"]
    for way in record["ways"].values():
        assert 0 < way["fastest_s"] <= way["median_s"] <= way["slowest_s"] and way["peak_mib"] >= 0
    (comparison,) = record["comparisons"]
    assert (comparison["plain"], comparison["ours"]) == ("plain", "ours")
    ratio = record["ways"]["plain"]["median_s"] / record["ways"]["ours"]["median_s"]
    assert comparison["speed_ratio"] == pytest.approx(ratio)
    assert comparison["difference"] == {"value": 0.25} and comparison["tolerance"] == {"value": 0.5}
    assert [goal["met"] for goal in comparison["goals"]] == [True, False]
    assert comparison["goals"][1]["value"] == comparison["speed_ratio"]


@pytest.mark.parametrize("wrong", [1.3, math.nan])
def test_a_wrong_result_is_an_error_before_anything_is_timed(wrong):
    case, order = case_of({"plain": 1.0, "ours": wrong}, tolerance=0.25)
    with pytest.raises(ResultsDiffer, match="'ours' does not give the result of 'plain': value"):
        harness.run_case(case, repeats=3)
    assert order == ["plain", "ours"]


def test_every_difference_needs_a_tolerance():
    comparison = Comparison("plain", "ours", lambda a, b: {"value": 0.0, "other": 9.0}, {"value": 0.0})
    with pytest.raises(KeyError, match="other"):
        comparison.check({"plain": 1, "ours": 1})


@pytest.mark.parametrize(
    ("quantity", "value", "met"),
    [
        ("speed_ratio", 1.5, True),
        ("speed_ratio", 1.49, False),
        ("memory_ratio", 8.0, True),
        ("memory_ratio", 7.9, False),
    ],
)
def test_goals(quantity, value, met):
    values = {"speed_ratio": math.nan, "memory_ratio": math.nan, quantity: value}
    goal = Goal("some goal", quantity, 1.5 if quantity == "speed_ratio" else 8.0)
    assert goal.judge(values)["met"] is met and goal.judge(values)["value"] == value
    assert goal.judge(dict.fromkeys(values, math.nan))["met"] is False


def test_slow_ways_alternate_and_run_once_a_sample(monkeypatch):
    monkeypatch.setattr(harness, "SAMPLE_SECONDS", 0.0)
    case, order = case_of({"plain": 1.0, "ours": 1.0})
    samples = harness.time_alternately(case.ways, repeats=3)
    assert order == ["plain", "ours"] * 3 and [len(values) for values in samples.values()] == [3, 3]


def test_quick_ways_run_often_for_a_sample():
    case, order = case_of({"plain": 1.0, "ours": 1.0})
    samples = harness.time_alternately(case.ways, repeats=2)
    assert len(order) > 100 and all(0 < value < 0.01 for values in samples.values() for value in values)


def held_at_most_three_mib():
    first = torch.zeros(MIB // 4)
    second = first + 1  # 2 MiB
    del first
    third = torch.cat([second, second])  # 3 MiB
    return third[:1]


def test_peak_of_tensors_counts_what_is_held_at_once():
    outside = torch.ones(4 * MIB)
    assert harness.peak_bytes(held_at_most_three_mib) == pytest.approx(3 * MIB, rel=0.01)
    assert harness.peak_bytes(lambda: outside.sum()) < MIB / 10
    # What an operator needs inside of it: the sorted values beside the indices.
    assert harness.peak_bytes(lambda: torch.zeros(MIB // 4).argsort()) >= 4 * MIB - 1000


def test_peak_of_arrays_counts_what_is_held_at_once():
    outside = np.ones(MIB)

    def way():
        first = np.zeros(MIB, np.uint8) + np.uint8(1)
        return np.concatenate([first, first]), outside[:1]

    assert harness.peak_bytes(way, "python") == pytest.approx(3 * MIB, rel=0.05)
