import numpy as np
import pytest

from istd.pseudo_masks.evolve import constants_for, evolve_mask

SIZE = 64
SCALE = 0.0015 * SIZE * SIZE


def square(top, left, height, width, value=1.0, size=SIZE):
    mask = np.zeros((size, size), np.float32)
    mask[top : top + height, left : left + width] = value
    return mask


def test_an_empty_mask_stays_empty():
    probability = np.random.default_rng(0).random((SIZE, SIZE))
    assert not evolve_mask(np.zeros((SIZE, SIZE)), probability).any()


def test_one_region_by_hand():
    mask = square(30, 30, 1, 1, 0.8)
    probability = square(29, 28, 3, 5, 0.6) + square(5, 5, 4, 4, 0.9)  # the second is outside the neighborhood
    threshold = 0.5 * 0.6 + 0.5 * 0.3 * 1 / SCALE
    assert threshold < 0.6
    new = evolve_mask(mask, probability)
    expected = np.zeros_like(mask)
    expected[29:32, 28:33] = 0.3
    expected[30, 30] = 0.7
    np.testing.assert_allclose(new, expected, atol=1e-6)


def test_the_threshold_rises_with_the_area():
    probability = square(30, 30, 1, 3, 0.55) + square(30, 33, 1, 1, 0.35)
    small = evolve_mask(square(30, 31, 1, 1, 0.8), probability)
    large = evolve_mask(square(29, 30, 3, 3, 0.8), probability)  # 9 pixels of a scale of 6.1: above the peak's share
    assert small[30, 33] > 0.1 and large[30, 33] == 0


def test_a_region_as_large_as_twice_the_scale_only_decays():
    mask = square(20, 20, 4, 4, 0.8)
    np.testing.assert_allclose(evolve_mask(mask, np.ones_like(mask)), mask * 0.97, rtol=1e-6)


def test_parts_that_miss_the_core_are_left_out():
    mask = square(30, 30, 1, 1, 0.8)
    probability = square(30, 33, 2, 2, 0.9)
    np.testing.assert_allclose(evolve_mask(mask, probability), mask * 0.97, rtol=1e-6)
    touching = square(31, 31, 3, 3, 0.9)
    assert evolve_mask(mask, touching)[33, 33] == pytest.approx(0.45)


def test_pixels_at_one_stay_unless_points_are_given():
    mask = square(30, 30, 2, 2, 1.0)
    zero = np.zeros_like(mask)
    assert np.array_equal(evolve_mask(mask, zero), mask)
    kept = evolve_mask(mask, zero, points=[[30, 31]])
    assert kept[31, 30] == 1 and kept[30, 30] == pytest.approx(0.97) and (kept == 1).sum() == 1
    assert evolve_mask(mask, zero, points=[]).max() == pytest.approx(0.97)


@pytest.mark.parametrize("decay", [0.9, 1.0])
def test_lesps_degeneration(decay):
    mask = square(10, 10, 1, 1, 1.0) + square(40, 40, 3, 3, 0.4)
    new = evolve_mask(mask, np.zeros_like(mask), decay=decay)
    assert new[10, 10] == 1
    np.testing.assert_allclose(new[40:43, 40:43], 0.4 * decay, rtol=1e-6)


def test_inputs_are_not_changed_and_the_result_is_new():
    mask, probability = square(3, 3, 2, 2, 0.9), square(3, 3, 2, 2, 0.9)
    copies = mask.copy(), probability.copy()
    new = evolve_mask(mask, probability)
    assert np.array_equal(mask, copies[0]) and np.array_equal(probability, copies[1])
    assert new.dtype == np.float32 and not np.shares_memory(new, mask)


def test_shapes_and_points_are_checked():
    with pytest.raises(ValueError, match="both must be"):
        evolve_mask(np.zeros((4, 5)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="outside"):
        evolve_mask(np.zeros((4, 5)), np.zeros((4, 5)), points=[[5, 0]])


def test_large_targets_evolve_where_small_ones_only_decay():
    assert constants_for(1) == {}
    mask = square(8, 8, 16, 16)
    probability = 0.9 * square(6, 6, 20, 20)
    options = {"points": [[16, 16]], "decay": 0.9}
    small = evolve_mask(mask, probability, **options)
    large = evolve_mask(mask, probability, **options, **constants_for(5))
    assert small[7, 7] == 0 and large[7, 7] == np.float32(0.45)
