import numpy as np
import pytest

from istd.pseudo_masks.mine import ratio_at, select


def regions(*corners, size=40, side=3, value=0.9):
    probability = np.zeros((size, size), np.float32)
    for x, y in corners:
        probability[y : y + side, x : x + side] = value
    return probability


def test_the_ratio_rises_linearly():
    assert [ratio_at(epoch, 60, 160) for epoch in (0, 60, 110, 160, 300)] == pytest.approx([0.2, 0.2, 0.6, 1.0, 1.0])
    assert [ratio_at(epoch, 5, 5) for epoch in (4, 5)] == [0.2, 1.0]


def test_an_image_without_points_enters_empty():
    accepted, mask = select(regions((3, 3)), [], ratio=0.2)
    assert accepted and mask.shape == (40, 40) and not mask.any()


def test_the_mask_is_what_the_points_touch():
    accepted, mask = select(regions((3, 3), (20, 20)), [[4, 4]], ratio=0.2)
    assert accepted and mask.dtype == np.float32
    assert np.array_equal(mask, (regions((3, 3)) > 0).astype(np.float32))


@pytest.mark.parametrize("ratio, expected", [(0.2, False), (0.5, True), (1.0, True)])
def test_missed_points_against_the_ratio(ratio, expected):
    accepted, mask = select(regions((3, 3)), [[4, 4], [30, 30]], ratio=ratio)
    assert accepted is expected
    assert mask[30, 30] == 1 and mask.sum() == 10


@pytest.mark.parametrize("false, expected", [(5, True), (6, False)])
def test_false_regions_against_the_points(false, expected):
    probability = regions((1, 1), *[(6 * i + 1, 20) for i in range(false)])
    assert select(probability, [[2, 2]], ratio=1.0)[0] is expected
    assert select(probability, [[2, 2]], ratio=1.0, max_false_ratio=100)[0]


def test_nothing_predicted_is_the_points_alone():
    accepted, mask = select(np.zeros((40, 40)), [[1, 2], [3, 4]], ratio=1.0)
    assert accepted and np.argwhere(mask).tolist() == [[2, 1], [4, 3]]
    assert not select(np.zeros((40, 40)), [[1, 2]], ratio=0.9)[0]


def test_two_points_in_one_region_are_both_found():
    accepted, _ = select(regions((3, 3)), [[3, 3], [5, 5]], ratio=0.0)
    assert accepted


def test_a_point_outside_is_an_error():
    with pytest.raises(ValueError, match="outside"):
        select(np.zeros((4, 4)), [[4, 0]], ratio=1.0)
