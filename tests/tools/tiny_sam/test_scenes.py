"""Synthetic scenes that the tiny SAM is trained on."""

import numpy as np
import pytest

from tiny_sam.scenes import SHAPES, draw_shape, make_scenes


@pytest.mark.parametrize("kind", SHAPES)
def test_every_shape_lies_where_it_is_asked_for(kind):
    for seed in range(8):
        alpha = draw_shape(kind, np.array([60.0, 70]), 20, np.random.default_rng(seed))
        assert alpha.shape == (128, 128) and alpha.min() >= 0 and alpha.max() == 1
        rows, cols = np.nonzero(alpha > 0.5)
        assert 10 < len(rows) < 4 * 40 * 40
        assert abs(cols.mean() - 60) < 25 and abs(rows.mean() - 70) < 25


def test_a_seed_gives_the_same_scenes_and_another_seed_others():
    images, labels = make_scenes(7, 3)
    again, marks = make_scenes(7, 3)
    assert np.array_equal(images, again) and np.array_equal(labels, marks)
    assert not np.array_equal(images, make_scenes(8, 3)[0])


def test_scenes_hold_visible_objects_of_many_sizes():
    images, labels = make_scenes(1, 24)
    assert images.shape == (24, 128, 128, 3) and images.dtype == labels.dtype == np.uint8
    areas = [np.bincount(scene.ravel())[1:] for scene in labels]
    assert all((area > 0).any() for area in areas)
    areas = np.concatenate(areas)
    areas = areas[areas > 0]
    assert areas.min() >= 24 and np.percentile(areas, 10) < 150 and areas.max() > 2000
