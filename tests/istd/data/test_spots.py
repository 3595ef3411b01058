import numpy as np
import pytest

from istd.data.spots import judge_spots, spots_at, why_none_is_easy


def picture(spots, size=(120, 160), background=100.0):
    """Noise with squares: (x, y, side, height) of each, the center at (x, y)."""
    gray = np.random.default_rng(0).normal(background, 2, size).astype(np.float32)
    for x, y, side, height in spots:
        x0, y0 = x - side // 2, y - side // 2
        gray[y0 : y0 + side, x0 : x0 + side] += height
    return gray


def test_bright_dark_and_no_spots_and_their_areas():
    gray = picture([(20, 20, 1, 60), (60, 20, 5, 60), (100, 30, 30, 60), (40, 90, 3, -60)])
    spots = spots_at(gray, [[20, 20], [60, 20], [100, 30], [40, 90], [130, 100]])
    assert [spot.sign for spot in spots] == [1, 1, 1, -1, 0]
    assert [spot.area for spot in spots] == [1, 25, 900, 9, 0]


def test_a_point_beside_its_spot_and_at_the_border():
    gray = picture([(1, 1, 3, 60), (50, 50, 3, 60)])
    assert [(spot.sign, spot.area) for spot in spots_at(gray, [[0, 0], [52, 50]])] == [(1, 9), (1, 9)]


def test_a_constant_image_shows_nothing():
    assert spots_at(np.zeros((9, 9), np.float32), [[4, 4]])[0].sign == 0
    assert spots_at(np.zeros((9, 9), np.float32), []) == []


def named(spots):
    return [(f"{number}.png", spot) for number, spot in enumerate(spots)]


@pytest.mark.parametrize(
    ("heights", "polarity", "level", "text"),
    [
        (
            [-60] * 4,
            "bright",
            "error",
            "4 of 4 points lie on dark spots, in 0.png for one: set ISTD.INPUT.POLARITY to dark",
        ),
        (
            [-60] * 4,
            "dark",
            "error",
            "4 of 4 points lie on bright spots, in 0.png for one: set ISTD.INPUT.POLARITY to bright",
        ),
        (
            [60, 60, -60, -60],
            "bright",
            "error",
            "2 of 4 points lie on dark spots, in 2.png for one: set ISTD.INPUT.POLARITY to both",
        ),
        (
            [-60, 60, 60, 60],
            "bright",
            "warning",
            "1 of 4 points lie on dark spots, in 0.png for one: set ISTD.INPUT.POLARITY to both",
        ),
        ([0] * 4, "bright", "warning", "no spot at 4 of 4 points, in 0.png for one"),
    ],
)
def test_judgment_of_polarity(heights, polarity, level, text):
    places = [(20, 20), (60, 20), (100, 30), (40, 90)]
    gray = picture([(x, y, 3, height) for (x, y), height in zip(places, heights, strict=True)])
    spots = named(spots_at(gray, places))
    [fault] = judge_spots(spots, polarity, 8)
    assert fault.level == level and text in fault.examples[0]
    assert why_none_is_easy(2, spots, polarity, 8).endswith(fault.examples[0])


def test_good_points_are_not_judged():
    gray = picture([(20, 20, 3, 60), (60, 20, 4, 60)])
    spots = named(spots_at(gray, [[20, 20], [60, 20]]))
    assert list(judge_spots(spots, "bright", 8)) == list(judge_spots([], "bright", 8)) == []
    assert list(judge_spots(named(spots_at(255 - gray, [[20, 20], [60, 20]])), "both", 8)) == []
    assert "ISTD.LABELS.EASY_SHARE" in why_none_is_easy(1, spots, "bright", 8)


def test_large_spots_name_a_size_that_fits_them():
    spots = named(spots_at(picture([(40, 40, 30, 60)]), [[40, 40]]))
    [fault] = judge_spots(spots, "bright", 8)
    assert "window of 20 pixels a side and have at most 50 pixels: set ISTD.LABELS.TARGET_SIZE to 53" in str(fault)
    assert list(judge_spots(spots, "bright", 53)) == []
