"""Regions in label order and their matching."""

import numpy as np
import pytest
from skimage import measure

from istd.evaluation import find_regions, match_centroids
from istd.evaluation.regions import DENSE_PAIRS


@pytest.mark.parametrize("density", [0.001, 0.05, 0.3, 0.6, 0.95])
def test_equals_regionprops_in_its_order(density):
    rng = np.random.default_rng(int(density * 1000))
    mask = rng.random((61, 83)) < density
    values = rng.random(mask.shape)
    labels = measure.label(mask, connectivity=2)
    wanted = measure.regionprops(labels, intensity_image=values)
    got = find_regions(mask)
    assert len(got) == len(wanted)
    assert got.areas.tolist() == [region.area for region in wanted]
    assert got.centroids.tolist() == [list(region.centroid) for region in wanted]
    assert got.boxes().tolist() == [[x0, y0, x1, y1] for y0, x0, y1, x1 in (region.bbox for region in wanted)]
    assert got.peaks(values).tolist() == [region.intensity_max for region in wanted]
    cells = np.argwhere(np.ones(mask.shape))
    assert (got.at(cells) == labels.ravel() - 1).all()


@pytest.mark.parametrize("shape", [(5, 7), (0, 0), (1, 1)])
def test_no_region(shape):
    regions = find_regions(np.zeros(shape, bool))
    assert len(regions) == 0 and regions.centroids.shape == (0, 2)
    assert regions.boxes().shape == (0, 4) and regions.peaks(np.zeros(shape)).shape == (0,)
    assert regions.at(np.zeros((0, 2))).shape == (0,)
    if shape[0]:
        assert regions.at([[0, 0]]).tolist() == [-1]


def test_one_region_is_the_image():
    regions = find_regions(np.ones((4, 6), bool))
    assert regions.areas.tolist() == [24] and regions.centroids.tolist() == [[1.5, 2.5]]
    assert regions.boxes().tolist() == [[0, 0, 6, 4]]


def greedy(targets, predictions, distance):
    used, result = set(), []
    for target in targets:
        near = [j for j, p in enumerate(predictions) if j not in used and np.sqrt(((target - p) ** 2).sum()) < distance]
        used.update(near[:1])
        result.append(near[0] if near else -1)
    return result


@pytest.mark.parametrize(
    ("targets", "predictions", "span"), [(5, 8, 10), (40, 40, 30), (150, 200, 40), (400, 300, 200)]
)
def test_matching_equals_the_greedy_loop(targets, predictions, span):
    rng = np.random.default_rng(targets)
    # Halves of pixels give many ties and exact distances of 3.
    first, second = (rng.integers(0, 2 * span, (n, 2)) / 2 for n in (targets, predictions))
    assert match_centroids(first, second, 3.0).tolist() == greedy(first, second, 3.0)


def test_both_ways_of_finding_pairs_were_tested():
    assert 40 * 40 <= DENSE_PAIRS < 150 * 200


def test_matching_nothing():
    none, one = np.zeros((0, 2)), np.zeros((1, 2))
    assert match_centroids(none, one, 3).tolist() == []
    assert match_centroids(one, none, 3).tolist() == [-1]
