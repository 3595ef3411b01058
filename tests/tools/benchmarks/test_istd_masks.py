"""The plain ways of metrics and label evolution: what they are given, and that the quick ways equal them."""

import numpy as np
import pytest

from benchmarks.istd_masks import draw_targets, evolve_mask_plainly
from istd.evaluation.ir_metrics import IRMetrics
from istd.pseudo_masks.evolve import evolve_mask


@pytest.mark.parametrize("regions", [1, 2, 60, 2000])
def test_drawn_targets_have_as_many_regions_and_are_not_met_by_all_predictions(regions):
    probability, target = draw_targets(regions)
    score = IRMetrics().update(probability, target)
    assert score.targets == regions and score.regions >= regions - regions // 10
    assert 0 < score.intersection < score.union or regions < 10
    assert regions < 10 or (0 < score.found < regions and score.false_pixels > 0)


@pytest.mark.parametrize("regions", [0, 1, 5, 25])
@pytest.mark.parametrize("shape", [(64, 64), (97, 133), (20, 150)])
def test_equal_to_the_plain_version(regions, shape):
    rng = np.random.default_rng(regions)
    for _ in range(4):
        mask = np.zeros(shape, np.float32)
        probability = rng.random(shape, dtype=np.float32) ** 3
        for _ in range(regions):
            y, x = rng.integers(shape[0]), rng.integers(shape[1])
            height, width = rng.integers(1, 8, 2)
            mask[y : y + height, x : x + width] = rng.choice([0.4, 0.6, 0.9, 1.0])
            probability[max(0, y - 2) : y + height, x : x + width + 2] += rng.uniform(0, 1)
        options = {"decay": float(rng.choice([0.9, 0.97, 1.0]))}
        probability = np.clip(probability, 0, 1)
        assert np.array_equal(
            evolve_mask(mask, probability, **options), evolve_mask_plainly(mask, probability, **options)
        )


def test_constants_are_parameters_of_both():
    rng = np.random.default_rng(3)
    mask, probability = np.zeros((64, 64), np.float32), rng.random((64, 64), dtype=np.float32)
    mask[20:23, 20:24] = 0.8
    options = {"neighborhood": 9, "core": 5, "base": 0.3, "gain": 0.2, "area_scale": 0.01, "region_threshold": 0.7}
    ours, plain = evolve_mask(mask, probability, **options), evolve_mask_plainly(mask, probability, **options)
    assert np.array_equal(ours, plain) and not np.array_equal(ours, evolve_mask(mask, probability))
