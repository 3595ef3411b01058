import numpy as np
import pytest

from istd.data.datasets import load_sirst
from istd.data.images import read_infrared, read_mask
from istd.pseudo_masks.initialize import initialize_mask, is_easy, target_scale


def blob(height=60, width=80, centers=((40, 30),), radius=2.0, level=140.0):
    rows, columns = np.mgrid[:height, :width]
    image = np.full((height, width), 60.0, np.float32)
    for x, y in centers:
        image += level * (np.hypot(columns - x, rows - y) <= radius)
    return image


def test_no_points_give_an_empty_mask():
    mask, found = initialize_mask(blob(), [])
    assert mask.shape == (60, 80) and mask.dtype == np.float32 and not mask.any()
    assert found.shape == (0,) and is_easy(found)


def test_a_bright_blob_becomes_its_contour():
    image = blob()
    mask, found = initialize_mask(image, [[40, 30]])
    assert found.tolist() == [True]
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert mask[image > 100].all()
    assert mask.sum() <= 50 + 4 * 10  # the contour's own pixels lie half outside OpenCV's area


def test_a_point_without_edges_is_only_itself():
    mask, found = initialize_mask(np.full((40, 40), 90.0), [[7, 9]])
    assert found.tolist() == [False]
    assert np.argwhere(mask).tolist() == [[9, 7]]


def test_many_points_each_have_their_own_window():
    centers = [(10, 10), (40, 30), (70, 50)]
    mask, found = initialize_mask(blob(centers=centers), [*map(list, centers), [60, 5]])
    assert found.tolist() == [True, True, True, False]
    assert all(mask[y, x] == 1 for x, y in [*centers, (60, 5)])
    assert not is_easy(found) and is_easy(found, 0.75)


@pytest.mark.parametrize("radius, expected", [(2.0, True), (7.0, False)])
def test_large_contours_are_refused(radius, expected):
    _, found = initialize_mask(blob(radius=radius), [[40, 30]])
    assert found.tolist() == [expected]


@pytest.mark.parametrize("point", [(1, 1), (78, 58), (0, 59)])
def test_windows_are_cut_at_the_border(point):
    mask, found = initialize_mask(blob(centers=[point]), [list(point)])
    assert found.all() and mask[point[1], point[0]] == 1
    inner, _ = initialize_mask(blob(centers=[(40, 30)]), [[40, 30]])
    assert mask.sum() <= inner.sum()


def test_the_window_does_not_change_what_the_whole_image_says():
    rng = np.random.default_rng(0)
    image = blob() + rng.integers(0, 8, (60, 80))
    mask, _ = initialize_mask(image, [[40, 30]])
    cut, _ = initialize_mask(image[15:45, 25:55], [[15, 15]])  # the window with more than the blur's margin
    assert np.array_equal(mask[15:45, 25:55], cut)


@pytest.mark.parametrize("point", [(-1, 3), (80, 3), (3, 60)])
def test_a_point_outside_is_an_error(point):
    with pytest.raises(ValueError, match=rf"point \({point[0]}, {point[1]}\) is outside its image of 80x60 pixels"):
        initialize_mask(blob(), [list(point)])


def test_share_of_easy_images_on_real_data(shared):
    """Published for the 214 test images: 132 easy (0.617), IoU 0.63 with the true masks; 153 of them are held."""
    dicts = load_sirst(shared / "data" / "sirst", "test.txt", on_mismatch="skip")
    easy = intersection = union = 0
    for record in dicts:
        mask, found = initialize_mask(read_infrared(record["file_name"]), record["points"])
        if is_easy(found):
            truth = read_mask(record["mask_file"]) > 0
            easy += 1
            intersection += (truth & (mask > 0)).sum()
            union += (truth | (mask > 0)).sum()
    assert len(dicts) == 153
    assert abs(easy / len(dicts) - 132 / 214) < 0.03
    assert abs(intersection / union - 0.63) < 0.02


@pytest.mark.parametrize("scale", [2, 5])
def test_targets_of_another_size(scale):
    image = blob(60 * scale, 80 * scale, [(40 * scale, 30 * scale)], radius=2.5 * scale)
    target = image > 100
    _, found = initialize_mask(image, [[40 * scale, 30 * scale]])
    mask, found_scaled = initialize_mask(image, [[40 * scale, 30 * scale]], scale=scale)
    assert found.tolist() == [False] and found_scaled.tolist() == [True]
    assert set(np.unique(mask)) == {0.0, 1.0} and mask.shape == image.shape
    assert (target & (mask > 0)).sum() / (target | (mask > 0)).sum() > 0.5


def test_points_of_a_shrunk_image_stay_and_none_give_none():
    mask, found = initialize_mask(np.full((41, 43), 90.0), [[42, 40], [0, 0]], scale=3.3)
    assert found.tolist() == [False, False] and np.argwhere(mask).tolist() == [[0, 0], [40, 42]]
    mask, found = initialize_mask(blob(), [], scale=2)
    assert not mask.any() and found.shape == (0,)


def test_dark_and_bright_targets_of_one_image():
    image = blob(centers=[(20, 20)]) - blob(centers=[(60, 40)], radius=1.5) + 140
    points = [[20, 20], [60, 40]]
    mask, found = initialize_mask(image, points, both=True)
    assert found.tolist() == [True, True]
    assert np.array_equal(mask[:, :40], initialize_mask(image, points)[0][:, :40])
    assert np.array_equal(mask[:, 40:], initialize_mask(255 - image, points)[0][:, 40:])
    assert not np.array_equal(mask[:, 40:], initialize_mask(image, points)[0][:, 40:])


def test_the_size_of_targets_is_at_least_a_pixel():
    assert target_scale(8) == 1 and target_scale(20) == 2.5
    with pytest.raises(ValueError, match="ISTD.LABELS.TARGET_SIZE must be at least 1 pixel, not 0"):
        target_scale(0)
