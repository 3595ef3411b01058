import numpy as np
import pytest

from istd.data.datasets import load_sirst
from istd.data.images import read_infrared, read_mask
from istd.pseudo_masks.regions import GAINS, fit_gain, grow_mask, window_noise

BACKGROUND = 60.0


def spots(*targets, shape=(80, 100), seed=0):
    """Gaussian targets (x, y, sigma, contrast) on a background with a little noise."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = BACKGROUND + np.random.default_rng(seed).normal(0, 1, shape)
    for x, y, sigma, contrast in targets:
        image += contrast * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return image.astype(np.float32)


def block(side, x=40, y=40, level=200.0):
    image = np.full((80, 100), BACKGROUND, np.float32)
    image[y : y + side, x : x + side] = level
    return image


def test_a_target_grows_to_the_geometric_mean_of_noise_and_contrast():
    image = spots((40, 30, 2.0, 100.0))
    mask, has_region = grow_mask(image, [[40, 30]], noise=9.0)
    rows, columns = np.mgrid[:80, :100]
    expected = np.exp(-((columns - 40) ** 2 + (rows - 30) ** 2) / 8) >= 0.3
    assert has_region.tolist() == [True] and mask.dtype == np.float32 and set(np.unique(mask)) == {0.0, 1.0}
    assert (mask > 0).sum() == pytest.approx(expected.sum(), rel=0.15)


def test_less_noise_and_less_gain_make_larger_regions_inside_one_another():
    image = spots((40, 30, 2.5, 100.0))
    areas = [grow_mask(image, [[40, 30]], noise=noise)[0].sum() for noise in (36.0, 16.0, 4.0)]
    assert areas == sorted(areas) and areas[0] < areas[-1]
    halved = grow_mask(image, [[40, 30]], noise=16.0, gain=0.5)[0]
    assert np.array_equal(halved, grow_mask(image, [[40, 30]], noise=4.0)[0])
    assert (grow_mask(image, [[40, 30]], noise=36.0)[0] <= halved).all()


def test_a_faint_target_stops_higher_than_a_bright_one():
    image = spots((25, 30, 3.0, 150.0), (75, 30, 3.0, 25.0))
    mask, _ = grow_mask(image, [[25, 30], [75, 30]], noise=9.0)
    assert mask[:, :50].sum() > 1.5 * mask[:, 50:].sum()


@pytest.mark.parametrize("factor", [0.01, 256.0])
def test_the_unit_of_gray_values_does_not_matter(factor):
    image = np.rint(spots((40, 30, 2.0, 100.0), (70, 50, 1.0, 30.0)))  # Whole numbers lie on levels exactly.
    points = [[40, 30], [70, 50]]
    assert window_noise(image * factor, points) == pytest.approx(factor * window_noise(image, points))
    for noise in (None, 9.0):
        scaled = None if noise is None else noise * factor
        mask, _ = grow_mask(image, points, noise=noise)
        assert np.array_equal(mask, grow_mask(image * factor, points, noise=scaled)[0])


@pytest.mark.parametrize("factor", [0.01, 0.1, 1 / 3, 256.0])
def test_rounding_moves_no_pixel_that_lies_on_a_level(factor):
    image = np.zeros((60, 60), np.float32)
    image[30, 20:35] = np.arange(30, 105, 5)  # Each step is one level: 0.3 is the last that growth reaches.
    mask, _ = grow_mask(image * np.float32(factor), [[34, 30]], noise=9.0 * factor)
    assert np.argwhere(mask)[:, 1].tolist() == list(range(20, 35))


def test_an_offset_of_gray_values_does_not_matter():
    image = np.rint(spots((40, 30, 2.0, 100.0)))
    assert np.array_equal(grow_mask(image, [[40, 30]])[0], grow_mask(image - 5000, [[40, 30]])[0])


def test_a_dark_target_is_the_inverted_bright_one():
    image = spots((40, 30, 2.0, 50.0))
    bright, _ = grow_mask(image, [[40, 30]], noise=4.0)
    dark, has_region = grow_mask(255 - image, [[40, 30]], noise=4.0, polarity="dark")
    assert bright.sum() > 9 and has_region.all() and np.array_equal(bright, dark)
    assert grow_mask(255 - image, [[40, 30]], noise=4.0)[0].sum() == 1


def test_a_saturated_target_is_whole():
    image = np.minimum(spots((40, 30, 3.0, 600.0)), 255)
    mask, _ = grow_mask(image, [[40, 30]], noise=9.0)
    assert mask[image == 255].all() and mask.sum() < 150


@pytest.mark.parametrize("side", [12, 25])
def test_growth_stops_before_it_leaks(side):
    """At 0.4 of the contrast the target joins a bright field: of 144 pixels, or of more than the largest region."""
    image = spots((40, 30, 1.5, 100.0))
    image[30 - side // 2 : 30 + side // 2, 43 : 43 + side] += 35
    mask, has_region = grow_mask(image, [[40, 30]], noise=1.0)
    assert has_region.all() and 9 <= mask.sum() < 40
    assert not mask[:, 46:].any()


def test_growth_stops_before_the_side_of_the_window():
    """A line grows by a few pixels from level to level, and would cross the window."""
    image = np.full((80, 100), BACKGROUND)
    image[29:32] += 100 * (1 - np.abs(np.arange(100) - 40) / 60)
    mask, has_region = grow_mask(image, [[40, 30]], noise=1.0)
    rows, columns = np.nonzero(mask)
    assert has_region.all() and 100 < mask.sum() < 3 * 47
    assert set(rows) == {29, 30, 31} and columns.min() > 40 - 24 and columns.max() < 40 + 24


@pytest.mark.parametrize("point", [(0, 0), (99, 79), (50, 0), (0, 40)])
def test_the_border_of_the_image_is_no_leak(point):
    mask, has_region = grow_mask(spots((*point, 2.5, 100.0)), [list(point)], noise=9.0)
    assert has_region.all() and mask.sum() >= 8 and mask[point[1], point[0]] == 1


def test_two_targets_in_a_window_stay_apart():
    image = spots((40, 30, 1.5, 100.0), (49, 30, 1.5, 90.0))
    one, _ = grow_mask(image, [[40, 30]], noise=4.0)
    both, has_region = grow_mask(image, [[40, 30], [49, 30]], noise=4.0)
    assert one[:, :45].sum() > 9 and not one[:, 45:].any()
    assert has_region.all() and both[30, 49] == 1 and not both[30, 44:46].any()


@pytest.mark.parametrize("point", [(41, 31), (42, 29)])
def test_a_point_off_the_peak_finds_the_target(point):
    image = spots((40, 30, 2.0, 100.0))
    centered = grow_mask(image, [[40, 30]], noise=9.0)[0] > 0
    mask = grow_mask(image, [list(point)], noise=9.0)[0] > 0
    assert mask[point[1], point[0]]
    assert (mask & centered).sum() / (mask | centered).sum() > 0.6


def test_targets_of_one_pixel_and_of_400_pixels():
    assert np.argwhere(grow_mask(block(1), [[40, 40]])[0]).tolist() == [[40, 40]]
    large, has_region = grow_mask(block(20), [[50, 50]])
    assert has_region.all() and np.array_equal(large > 0, block(20) > BACKGROUND)
    too_large, has_region = grow_mask(block(21), [[50, 50]])
    assert not has_region.any() and too_large.sum() == 1
    assert grow_mask(block(21), [[50, 50]], max_area=441)[0].sum() == 441


@pytest.mark.parametrize("noise", [None, 5.0, 0.0])
def test_an_image_without_contrast_gives_the_points_alone(noise):
    mask, has_region = grow_mask(np.full((40, 40), 90, np.uint8), [[7, 9]], noise=noise)
    assert has_region.tolist() == [False] and np.argwhere(mask).tolist() == [[9, 7]]


def test_no_points_give_an_empty_mask():
    mask, has_region = grow_mask(np.zeros((8, 9)), [])
    assert mask.shape == (8, 9) and not mask.any() and has_region.shape == (0,)
    assert window_noise(np.zeros((8, 9)), []).shape == (0,)


def test_bad_input_is_named():
    image = spots()
    with pytest.raises(ValueError, match=r"point \(100, 3\) is outside its image of 100x80 pixels"):
        grow_mask(image, [[100, 3]])
    with pytest.raises(ValueError, match="polarity of targets must be one of"):
        grow_mask(image, [[5, 5]], polarity="gray")
    with pytest.raises(ValueError, match="must not be negative"):
        grow_mask(image, [[5, 5]], gain=-1.0)
    with pytest.raises(ValueError, match="there are none"):
        fit_gain([(image, [], image > 255)], 9.0)


def test_the_gain_is_that_of_the_masks_it_is_fitted_to():
    samples = []
    for seed, contrast in enumerate((60.0, 100.0, 140.0)):
        image = spots((40, 30, 3.0, contrast), seed=seed)
        samples.append((image, [[40, 30]], grow_mask(image, [[40, 30]], noise=9.0, gain=GAINS[10])[0]))
    assert fit_gain(samples, 9.0) == pytest.approx(GAINS[10], rel=0.13)


def test_start_masks_of_real_images(shared):
    """IoU with the true masks: 78.6 on the 153 test images; the contours' is 32.4."""
    samples = [
        (read_infrared(record["file_name"]), record["points"], read_mask(record["mask_file"]) > 0)
        for record in load_sirst(shared / "data" / "sirst", "test.txt", on_mismatch="skip")
    ]
    noise = float(np.median(np.concatenate([window_noise(image, points) for image, points, _ in samples])))
    masks = [grow_mask(image, points, noise=noise)[0] > 0 for image, points, _ in samples]
    intersection = sum((mask & truth).sum() for mask, (*_, truth) in zip(masks, samples, strict=True))
    union = sum((mask | truth).sum() for mask, (*_, truth) in zip(masks, samples, strict=True))
    assert 100 * intersection / union == pytest.approx(78.6, abs=0.3)


def test_both_polarities_follow_what_each_point_shows():
    image = spots((20, 30, 2.0, 50.0)) - spots((60, 30, 2.0, 50.0)) + 100
    points = [[20, 30], [60, 30]]
    mask, has_region = grow_mask(image, points, noise=4.0, polarity="both")
    assert has_region.all()
    assert np.array_equal(mask[:, :40], grow_mask(image, points, noise=4.0)[0][:, :40])
    assert np.array_equal(mask[:, 40:], grow_mask(image, points, noise=4.0, polarity="dark")[0][:, 40:])


def test_large_targets_need_a_scale():
    image = np.zeros((120, 120), np.float32)
    image[40:80, 40:80] = 100
    small, found = grow_mask(image, [[60, 60]], noise=1.0)
    large, found_scaled = grow_mask(image, [[60, 60]], noise=1.0, scale=3)
    assert found.tolist() == [False] and found_scaled.tolist() == [True]
    assert small.sum() == 1 and np.array_equal(large > 0, image > 0)
