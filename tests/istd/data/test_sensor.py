"""Raw values of sensors: bad pixels, values that are not finite, and the stretch to gray values."""

import cv2
import numpy as np
import pytest

from istd.data.sensor import bad_pixels, gray_from_raw, parse_range

LIT = [(20, 30), (44, 70)]  # row, column of the targets


def scene(peak: float = 500.0, sigma: float = 1.2, size=(64, 96)) -> np.ndarray:
    """Counts of a 14-bit sensor with two targets, float32."""
    y, x = np.mgrid[: size[0], : size[1]]
    values = 7000 + 2 * y + np.random.default_rng(0).normal(0, 6, size)
    for row, column in LIT:
        values += peak * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
    return values.round().astype(np.float32)


def nothing(*_):
    """Report nothing."""


PLACES = {
    "hot pixel": np.s_[5, 9],
    "pixel in the corner": np.s_[0, 0],
    "pair": np.s_[30, 50:52],
    "2x2": np.s_[30:32, 50:52],
    "row": np.s_[17],
    "first row": np.s_[0],
    "two rows": np.s_[33:35],
    "3x3": np.s_[30:33, 50:53],
    "first two rows": np.s_[:2],
    "last two columns": np.s_[:, -2:],
    "column": np.s_[:, 40],
    "last column": np.s_[:, -1],
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("value", [0, 16383, 65535])
def test_dead_and_hot_pixels_are_found_and_filled(place, value):
    clean = scene()
    bad = np.zeros(clean.shape, bool)
    bad[place] = True
    values = clean.copy()
    values[bad] = value
    assert np.array_equal(bad_pixels(values), bad)
    difference = np.abs(gray_from_raw(values, report=nothing) - gray_from_raw(clean, report=nothing))
    assert difference[~bad].max() < 6 and np.median(difference[bad]) < 20


def test_a_row_and_a_column_that_cross_and_many_pixels():
    values = scene()
    rng = np.random.default_rng(1)
    values[10], values[:, 25] = 0, 16383
    values[rng.integers(11, 64, 40), rng.integers(26, 96, 40)] = 16383
    for row, column in LIT:  # The targets stay free of bad pixels.
        values[row - 4 : row + 5, column - 4 : column + 5] = scene()[row - 4 : row + 5, column - 4 : column + 5]
    gray = gray_from_raw(values, report=nothing)
    assert np.abs(gray - gray_from_raw(scene(), report=nothing)).max() < 40
    assert sorted(np.argwhere(gray > 200).mean(0).round().tolist()) == [32, 50]


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("peak", [-500, 300, 2000, 9000])
def test_targets_are_not_bad_pixels(peak, sigma):
    assert not bad_pixels(scene(peak, sigma)).any()


def test_real_targets_stay(shared):
    from istd.data.images import read_infrared, read_mask

    folder = shared / "data" / "sirst"
    for path in sorted((folder / "images").iterdir())[::10]:
        mask = folder / "masks" / path.name
        values = 7000 + 4 * read_infrared(path)
        if path.stem != "Misc_111":
            assert not (bad_pixels(values) & (read_mask(mask) > 0)).any(), path.name


def test_what_is_not_finite_is_filled_up_to_a_share():
    said = []
    values = scene() / 25
    clean = gray_from_raw(values, report=nothing)
    values[3, 4], values[8, 8:12], values[9, 9] = np.nan, np.inf, -np.inf
    gray = gray_from_raw(values, name="a.tif", report=lambda *args: said.append(args))
    assert np.abs(gray - clean).max() < 15 and np.isfinite(gray).all()
    assert said[0][:2] == ("warning", "pixels that are not finite") and "a.tif: 6 of 6144 pixels" in said[0][2]
    values[:8] = np.nan
    with pytest.raises(ValueError, match="773 of its 6144 values are not finite, more than 10%"):
        gray_from_raw(values, report=nothing)


def test_ranges():
    ramp = np.linspace(7000, 8000, 6000).round().astype(np.uint16).reshape(60, 100)
    gray = gray_from_raw(ramp, report=nothing)
    assert (gray.min(), gray.max()) == (0, 255) and abs(gray.mean() - 127.5) < 0.5
    expected = np.clip((ramp - 7200.0) / 600 * 255, 0, 255)
    for text in ("7200..7800", "7200,7800", "7200, 7800", "(7200, 7800)", "7200 7800"):
        np.testing.assert_allclose(gray_from_raw(ramp, text, report=nothing), expected, atol=1e-3)
    np.testing.assert_allclose(gray_from_raw(ramp, "type", report=nothing), ramp / 257, rtol=1e-5)
    np.testing.assert_allclose(gray_from_raw(ramp / 10000, "type", report=nothing), ramp / 10000 * 255, rtol=1e-5)
    with pytest.raises(ValueError, match="float values reach 8000, and the range 'type' takes floats of 0 to 1"):
        gray_from_raw(ramp.astype(np.float32), "type", report=nothing)
    assert not gray_from_raw(np.full((20, 20), 7000, np.uint16), report=nothing).any()


def test_one_bright_pixel_of_a_million_is_seen():
    values = np.full((1000, 1200), 7000, np.uint16)
    values[500, 500:503] = 7400
    assert gray_from_raw(values, report=nothing)[500, 501] == 255


def test_a_range_beyond_all_values_is_told():
    said = []
    gray_from_raw(scene(), "100..200", "a.png", lambda *args: said.append(args[2]))
    assert len(said) == 1 and said[0].startswith("a.png: its values 6") and said[0].endswith("beyond 100..200.")


@pytest.mark.parametrize("text", ["", "range", "1,2,3", "8000..7000", "5..5", "a,b", "nan..1", "0..inf", "1..2..3"])
def test_ranges_that_are_none(text):
    with pytest.raises(ValueError, match="the range of raw values .* is percentiles or type or 'LOW..HIGH', not"):
        parse_range(text)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (5, 5), (6, 7)])
def test_small_images_are_scaled(size):
    values = np.random.default_rng(0).integers(7000, 8000, size).astype(np.uint16)
    gray = gray_from_raw(values, report=nothing)
    assert gray.shape == size and gray.dtype == np.float32 and 0 <= gray.min() <= gray.max() <= 255


def test_a_blurred_image_of_any_type_is_the_same():
    values = cv2.GaussianBlur(scene(), (3, 3), 1).round()
    grays = [gray_from_raw(values.astype(dtype), report=nothing) for dtype in (np.uint16, np.int32, np.float64)]
    assert np.array_equal(grays[0], grays[1]) and np.array_equal(grays[0], grays[2])
