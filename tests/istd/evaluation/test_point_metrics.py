"""Metrics against points alone."""

import math

import numpy as np
import pytest

from istd.evaluation import PointMetrics, find_regions
from istd.evaluation.point_metrics import match_points


def prediction(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """(30, 40) map with 0.9 in each x0, y0, x1, y1."""
    result = np.zeros((30, 40))
    for x0, y0, x1, y1 in boxes:
        result[y0:y1, x0:x1] = 0.9
    return result


def test_by_hand():
    # Found by holding it, found by distance, missed; one false region of 4 pixels.
    metrics = PointMetrics()
    score = metrics.update(prediction((2, 3, 12, 5), (20, 20, 21, 21), (30, 2, 32, 4)), [[11, 4], [22, 20], [5, 25]])
    assert (score.points, score.found, score.regions, score.false_pixels, score.pixels) == (3, 2, 3, 4, 1200)
    result = metrics.compute()
    assert result["Pd"] == pytest.approx(100 * 2 / 3) and result["false_regions"] == 1
    assert result["Fa"] == pytest.approx(1e6 * 4 / 1200) and result["F1"] == pytest.approx(100 * 4 / 6)


def test_one_region_serves_one_point():
    regions = find_regions(prediction((2, 2, 9, 4)) > 0.5)
    assert match_points([[3, 3], [8, 3]], regions, 3.0).tolist() == [0, -1]


def test_holding_goes_before_nearness():
    # The first point is near both regions; the second lies in the region whose centroid is nearest the first.
    regions = find_regions(prediction((10, 10, 11, 11), (12, 12, 13, 13)) > 0.5)
    assert match_points([[11, 12], [10, 10]], regions, 3.0).tolist() == [1, 0]


def test_points_are_x_y_and_nearness_is_exclusive():
    regions = find_regions(prediction((35, 4, 36, 5)) > 0.5)
    assert match_points([[35, 4]], regions, 3.0).tolist() == [0]
    assert match_points([[35, 6]], regions, 3.0).tolist() == [0]
    assert match_points([[35, 7]], regions, 3.0).tolist() == [-1]


def test_without_points_without_regions_without_images():
    metrics = PointMetrics()
    assert all(math.isnan(value) for value in metrics.compute().values())
    metrics.update(prediction(), np.zeros((0, 2)))
    assert math.isnan(metrics.compute()["F1"]) and metrics.compute()["Fa"] == 0
    metrics.update(prediction((1, 1, 3, 3)), [])
    assert metrics.compute()["F1"] == 0 and metrics.compute()["false_regions"] == 0.5
    metrics.update(prediction(), [[4, 4]])
    assert metrics.compute()["Pd"] == 0 and len(PointMetrics().merge([metrics]).scores) == 3


@pytest.mark.parametrize("point", [[40, 3], [3, 30], [-1, 3]])
def test_point_outside(point):
    with pytest.raises(ValueError, match="outside its image of 40x30"):
        PointMetrics().update(prediction(), [point])
