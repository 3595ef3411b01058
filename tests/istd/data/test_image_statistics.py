import numpy as np
import pytest

from istd.data.image_statistics import LONGEST_SIDE, image_statistics

RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 20, (64, 96))
ROWS, COLUMNS = np.mgrid[:64, :96]


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (40, 60), (96, 135)])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_constant_images_have_finite_statistics(size, level):
    features = image_statistics(np.full(size, level, np.float32))
    assert all(np.isfinite(value) for value in features.values())
    assert features["mean"] == level and features["entropy"] == 0 and features["edge_density"] == 0


def test_every_image_has_the_same_names():
    names = list(image_statistics(np.zeros((5, 5))))
    assert names == list(image_statistics(120 + NOISE)) and 60 <= len(names) == len(set(names))


def test_histogram_statistics_by_hand():
    image = np.zeros((10, 10), np.float32)
    image[:, 5:] = 200
    features = image_statistics(image)
    assert features["entropy"] == 1 and features["mean"] == 100 and features["std"] == 100
    assert features["range"] == 200 and features["gini"] == pytest.approx(0.5)
    assert features["otsu_share"] == 0.5 and features["otsu_separability"] == pytest.approx(1)
    assert features["skewness"] == pytest.approx(0) and features["kurtosis"] == pytest.approx(-2)


def test_noise_is_measured():
    quiet, loud = (image_statistics(120 + NOISE * scale) for scale in (0.1, 1.0))
    assert loud["noise_sigma"] > 5 * quiet["noise_sigma"]
    assert loud["glcm_contrast_1"] > quiet["glcm_contrast_1"]
    assert loud["glcm_homogeneity_1"] < quiet["glcm_homogeneity_1"]


def test_the_spectrum_tells_smooth_from_rough():
    smooth = image_statistics(100 + 50 * np.sin(COLUMNS / 20) * np.cos(ROWS / 20))
    rough = image_statistics(120 + NOISE)
    assert smooth["spectrum_slope"] < rough["spectrum_slope"]
    assert smooth["high_frequency_ratio"] < 0.05 < rough["high_frequency_ratio"]
    assert smooth["spectrum_centroid"] < rough["spectrum_centroid"]
    assert smooth["spectrum_flatness"] < rough["spectrum_flatness"]


def test_directions():
    stripes = image_statistics(100 + 80 * np.sin(COLUMNS * np.pi / 2))
    assert stripes["edge_anisotropy"] > 0.9 > image_statistics(120 + NOISE)["edge_anisotropy"]
    assert stripes["gabor_4_0"] > stripes["gabor_4_90"] + 1


def test_light_and_local_contrast():
    ramp = image_statistics(20 + 2.0 * COLUMNS)
    assert ramp["illumination_nonuniformity"] > 5 * image_statistics(120 + NOISE)["illumination_nonuniformity"]
    spot = np.full((64, 96), 60.0)
    spot[30:33, 40:43] = 220
    assert image_statistics(spot)["local_contrast_max"] > 50


def test_edges_fill_the_plane_or_a_line():
    line = np.full((64, 64), 100.0)
    line[:, 32:] = 220
    assert image_statistics(line)["edge_fractal_dimension"] == pytest.approx(1, abs=0.2)
    assert image_statistics(np.clip(100 + 3 * NOISE, 0, 255))["edge_fractal_dimension"] > 1.5


def test_large_images_are_shrunk_first():
    rng = np.random.default_rng(0)
    small = np.clip(rng.normal(120, 30, (288, LONGEST_SIDE)), 0, 255).astype(np.float32)
    large = np.kron(small, np.ones((2, 2), np.float32))
    one, two = image_statistics(small), image_statistics(large)
    assert all(one[name] == pytest.approx(two[name], rel=1e-3, abs=1e-3) for name in one)
