"""Tiles cover every pixel of any size, meet without seams, and leave alone what fits into one."""

import numpy as np
import pytest

from d2kit.tiling import tile_starts
from istd.deploy.tiling import predict_tiled, tile_weights

# Smaller than a tile, exact, one more, two tiles exact, no multiple, a frame that is far from square.
SIZES = [(5, 9), (64, 64), (65, 64), (112, 64), (100, 333), (1080, 1918)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 16, 63])
def test_every_pixel_is_predicted_once(size, overlap):
    if overlap == 63 and max(size) > 333:
        size = size[0] // 9, size[1] // 9  # tiles one pixel apart
    image = np.random.default_rng(0).uniform(0, 1, size).astype(np.float32)
    seen = []

    def predict(tile):
        seen.append(tile.shape)
        return tile

    found = predict_tiled(predict, image, 64, overlap)
    assert found.shape == size and found.dtype == np.float32
    np.testing.assert_allclose(found, image, atol=1e-6)
    assert max(max(shape) for shape in seen) <= 64
    assert (len(seen) == 1) == (max(size) <= 64)


@pytest.mark.parametrize("length", [64, 65, 100, 333, 1918])
@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_tiles_overlap_enough_and_end_at_the_border(length, overlap):
    starts = tile_starts(length, 64, overlap)
    assert starts[0] == 0 and starts[-1] + 64 == length
    assert all(0 < b - a <= 64 - overlap for a, b in zip(starts, starts[1:], strict=False))
    total = np.zeros(length)
    for place, weight in tile_weights(starts, 64, length):
        assert weight.shape == (64,) and weight.min() > 0
        total[place] += weight
    np.testing.assert_allclose(total, 1)


def test_one_tile_is_exactly_the_untiled_prediction():
    image = np.random.default_rng(0).uniform(0, 1, (40, 64)).astype(np.float32)
    answer = image * 0.3
    assert predict_tiled(lambda tile: answer, image, 64, 8) is answer
    large = np.zeros((90, 90), np.float32)
    assert predict_tiled(lambda tile: large, large, 0, 8) is large


def test_seams_are_blended():
    """Tiles that disagree as much as they can: neighboring pixels differ by one step of the ramp, not by a jump."""
    answers = iter([0.0, 1.0, 0.0, 1.0])
    found = predict_tiled(lambda tile: np.full(tile.shape, next(answers)), np.zeros((20, 100)), 64, 28)
    assert found[0, 0] == 0 and found[0, -1] == 1
    steps = np.diff(found, axis=1)
    assert steps.min() >= 0 and steps.max() == pytest.approx(1 / 29, rel=1e-5)
    answers = iter([0.0, 1.0])
    hard = predict_tiled(lambda tile: np.full(tile.shape, next(answers)), np.zeros((20, 128)), 64, 0)
    assert np.diff(hard, axis=1).max() == 1


@pytest.mark.parametrize(("tile", "overlap"), [(-1, 0), (8, 8), (8, -1)])
def test_impossible_tiles_are_refused(tile, overlap):
    with pytest.raises(ValueError, match=f"tiles of {tile} pixels cannot overlap by {overlap}"):
        predict_tiled(lambda image: image, np.zeros((4, 4)), tile, overlap)
