import io

import numpy as np
import pytest
import torch

from istd.pseudo_masks.state import PseudoMasks, saved_versions


def mask(value, shape=(12, 16)):
    result = np.zeros(shape, np.float32)
    result[3:6, 4:8] = value
    return result


def masks_of(pairs, pool=()):
    masks = PseudoMasks()
    for name, one in pairs:
        masks.put(name, one)
    masks.pool |= set(pool)
    return masks


def random_masks(count, seed=0):
    rng = np.random.default_rng(seed)
    result = {}
    for index in range(count):
        one = np.zeros(rng.integers(1, 30, 2), np.float32)
        one[rng.random(one.shape) < 0.2] = 0.3
        result[f"image {index}"] = one * rng.random(one.shape, dtype=np.float32)
    return result


def assert_same(masks, other):
    assert (masks.version, masks.epoch, masks.pool, list(masks)) == (
        other.version,
        other.epoch,
        other.pool,
        list(other),
    )
    assert all(np.array_equal(masks[name], other[name]) for name in masks)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_masks_come_back_exactly_from_memory_checkpoint_and_file(tmp_path, count):
    original = random_masks(count)
    masks = masks_of(original.items(), [*original][::2])
    for _ in range(3):
        masks.advance([], epoch=65)
    assert list(masks) == list(original) and len(masks) == count
    for name, one in original.items():
        assert masks[name].dtype == np.float32 and np.array_equal(masks[name], one)
    buffer = io.BytesIO()
    torch.save(masks.state_dict(), buffer)
    again = PseudoMasks()
    again.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert_same(again, masks)
    masks.save(tmp_path)
    assert_same(PseudoMasks.read(tmp_path / "masks-000003.npz"), masks)


def test_an_all_zero_and_a_full_mask():
    masks = masks_of([("zero", np.zeros((3, 4))), ("one", np.ones((2, 2)))])
    assert masks["zero"].shape == (3, 4) and not masks["zero"].any() and masks["one"].all()


def test_a_mask_that_is_read_is_a_copy():
    masks = masks_of([("a", mask(0.5))])
    masks["a"][:] = 1
    assert np.array_equal(masks["a"], mask(0.5))


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 2)), np.full((2, 2), np.nan), np.zeros((3, 2))])
def test_bad_masks_are_named_and_change_nothing(bad):
    masks = masks_of([("b", np.ones((2, 2)))])
    with pytest.raises(ValueError, match="the mask of image 'b'"):
        masks.put("b", bad)
    assert masks["b"].all()


def test_an_update_and_its_figures():
    masks = masks_of({"a": mask(1.0), "b": mask(0.7), "c": mask(0)}.items(), ["a"])
    grown = mask(1.0)
    grown[6, 4:8] = 0.9
    figures = masks.advance([masks_of([("a", grown)]), masks_of([("c", mask(0))], ["c"])], epoch=5)
    assert figures == {"entered": 1, "area_change": 0.333333, "iou_mean": 0.875}
    assert (masks.version, masks.epoch, masks.pool) == (1, 5, {"a", "c"})
    assert np.array_equal(masks["a"], grown) and np.array_equal(masks["b"], mask(0.7))
    assert masks.advance([], epoch=6) == {"entered": 0, "area_change": 0.0, "iou_mean": 1.0}


def test_files_of_an_abandoned_run_go(tmp_path):
    masks = masks_of([("a", mask(1.0))])
    state = masks.state_dict()
    masks.save(tmp_path)
    for epoch in (1, 2, 3):
        masks.advance([masks_of([("a", mask(epoch / 10))])], epoch)
        masks.save(tmp_path)
    assert [path.name for path in saved_versions(tmp_path)] == [f"masks-00000{version}.npz" for version in range(4)]
    masks.load_state_dict(state)
    masks.advance([masks_of([("a", mask(0.9))])], 1)
    masks.save(tmp_path)
    assert len(saved_versions(tmp_path)) == 2
    assert np.array_equal(PseudoMasks.read(saved_versions(tmp_path)[1])["a"], mask(0.9))
