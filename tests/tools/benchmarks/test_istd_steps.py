"""The benchmark's plain ways of the inner and the outer step give what the trainer's steps give."""

from types import SimpleNamespace

import pytest

from benchmarks.harness import ResultsDiffer
from benchmarks.istd_steps import (
    build_pair,
    draw_crops,
    inner_plainly,
    inner_shared,
    inner_step,
    outer_plainly,
    outer_shared,
    outer_step,
    relative_difference,
)

OPTIONS = SimpleNamespace(network="MLCLNet", crop=32, batch=2, vfm=["vit_tiny_patch16_224", "random"], device="cpu")


@pytest.fixture(scope="module")
def model():
    return build_pair(OPTIONS)[0]


def test_inner_step(model):
    crops = draw_crops(2, 32, whole=False, seed=1)
    ours = inner_shared(model, crops)
    assert relative_difference(inner_plainly(model, crops), ours)["gradient"] < 1e-5


def test_outer_step(model):
    train, validation = (draw_crops(2, 32, whole=False, seed=seed) for seed in (1, 2))
    ours = outer_shared(model, train, validation)
    assert relative_difference(outer_plainly(model, train, validation), ours)["gradient"] < 1e-5


def test_scenarios_compare_both_ways_and_notice_a_difference():
    inner, outer = (next(scenario(OPTIONS)) for scenario in (inner_step, outer_step))
    for case in (inner, outer):
        results = {name: way() for name, way in case.ways.items()}
        comparison = case.comparisons[0]
        assert comparison.check(results)["gradient"] <= comparison.tolerance["gradient"]
        results[comparison.ours] = 1.1 * results[comparison.ours]
        with pytest.raises(ResultsDiffer, match="gradient"):
            comparison.check(results)
