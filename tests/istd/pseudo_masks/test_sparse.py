import numpy as np
import pytest

from istd.pseudo_masks.sparse import SparseMasks


def masks(count, seed=0):
    rng = np.random.default_rng(seed)
    result = {}
    for index in range(count):
        mask = np.zeros(rng.integers(1, 30, 2), np.float32)
        mask[rng.random(mask.shape) < 0.2] = 0.3
        result[f"image {index}"] = mask * rng.random(mask.shape, dtype=np.float32)
    return result


@pytest.mark.parametrize("count", [0, 1, 7])
def test_masks_come_back_exactly(count):
    original = masks(count)
    packed = SparseMasks.pack(original.items())
    assert list(packed) == list(original) and len(packed) == count
    for name, mask in original.items():
        assert packed[name].dtype == np.float32 and np.array_equal(packed[name], mask)


def test_an_all_zero_and_a_full_mask():
    packed = SparseMasks.pack([("zero", np.zeros((3, 4))), ("one", np.ones((2, 2)))])
    assert packed["zero"].shape == (3, 4) and not packed["zero"].any() and packed["one"].all()


def test_the_digest_follows_the_content():
    assert SparseMasks.pack(masks(3).items()).digest() == SparseMasks.pack(masks(3).items()).digest()
    assert SparseMasks.pack(masks(3).items()).digest() != SparseMasks.pack(masks(3, seed=1).items()).digest()


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 2)), np.full((2, 2), np.nan)])
def test_bad_masks_are_named(bad):
    with pytest.raises(ValueError, match="the mask of image 'b'"):
        SparseMasks.pack([("a", np.zeros((2, 2))), ("b", bad)])


def test_an_id_twice_is_an_error():
    with pytest.raises(ValueError, match="'a' occurs twice"):
        SparseMasks.pack([("a", np.zeros((2, 2))), ("a", np.zeros((2, 2)))])
