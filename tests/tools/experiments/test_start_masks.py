"""Rules for the first mask of a point, and their scores."""

import numpy as np
import pytest

from experiments.start_masks import (
    Sample,
    blurred_scenes,
    calibrated_ious,
    iou,
    rim_level,
    rule_ious,
    windows,
)


def spot(sigma=2.0, side=64):
    rows, columns = np.mgrid[:side, :side] - side // 2
    return (60 + 100 * np.exp(-(rows**2 + columns**2) / (2 * sigma**2))).astype(np.float32)


def test_iou_counts_the_pixels_of_all_pairs():
    one, two = np.array([True, True, False]), np.array([True, False, False])
    assert iou([one, two], [two, two]) == pytest.approx(100 * 2 / 3)


def test_the_border_is_sharpest_near_one_sigma_of_a_spot():
    image = spot(sigma=3.0)
    [window] = windows(Sample(image, [[32, 32]], image > 100))
    sharpest = rim_level(window, 1.0)
    assert sharpest == pytest.approx(np.exp(-0.5), abs=0.15)
    assert rim_level(window, 0.5) < rim_level(window, 0.8) <= sharpest


def test_scenes_differ_by_their_blur_alone():
    sharp, blurred = blurred_scenes(4, 0.0), blurred_scenes(4, 2.0)
    for one, other in zip(sharp, blurred, strict=True):
        assert np.array_equal(one.truth, other.truth) and one.points == other.points
        assert one.image[one.truth].mean() > other.image[other.truth].mean()


def test_true_masks_give_the_upper_bounds():
    samples = blurred_scenes(8, 0.0)
    ious = rule_ious(samples)
    assert ious["best level of each target"] >= ious["best level of the set"] >= ious["half of the contrast"]
    assert ious["best gain of the set"] >= ious["sqrt(noise / contrast), RMS of the set"] - 1


def test_calibration_fits_a_gain_for_the_images_left():
    samples = blurred_scenes(6, 0.0)
    values = calibrated_ious(samples, 3, 4)
    assert values == calibrated_ious(samples, 3, 4) and len(values) == 4 and len(set(values)) > 1
    assert all(0 < value < 100 for value in values)


def test_calibration_needs_images_to_score():
    with pytest.raises(ValueError, match="fitted to 3 of 3 images"):
        calibrated_ious(blurred_scenes(3, 0.0), 3, 1)
