"""The feature cache: same values on hit and miss, bounds, keys, damaged files."""

import numpy as np
import pytest
import torch
from PIL import Image

from istd.data.mapper import ISTDMapper
from istd.data.view import View
from istd.modeling import build_vfm
from istd.modeling.batch import batch_key
from istd.modeling.feature_cache import GIB, FeatureCache, view_key


class CountingVFM:
    """A model whose features are cheap and known: two layers, the image halved by pooling, and its double."""

    layers, fingerprint = 2, "counting"

    def __init__(self):
        self.batches = []

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.batches.append(len(images))
        pooled = torch.nn.functional.avg_pool2d(images, 2)
        return [pooled, 2 * pooled]


IMAGES = torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(0))
ENTRY, HEADER = 2 * 2 * 3 * 2, 128  # bytes: layers, cells, float16; header of a .npy file


@pytest.fixture(params=["memory", "disk"])
def folder(request, tmp_path) -> str:
    return str(tmp_path / "features") if request.param == "disk" else ""


def test_hit_and_miss_are_equal_and_rounded(folder):
    vfm = CountingVFM()
    cache = FeatureCache(vfm, folder=folder)
    first = cache(IMAGES, ["a", "b", "c"])
    again = cache(IMAGES[[2, 0]], ["c", "a"])
    assert first.shape == (2, 3, 1, 2, 3) and first.dtype == torch.float32
    assert torch.equal(again, first[:, [2, 0]])
    assert torch.equal(first, torch.stack(vfm(IMAGES)).half().float())
    assert vfm.batches == [1, 1, 1, 3] and (cache.hits, cache.misses) == (2, 3)


def test_views_without_a_key_run_as_one_batch_unrounded(folder):
    vfm = CountingVFM()
    cache = FeatureCache(vfm, folder=folder)
    got = cache(IMAGES, [None, "b", None])
    exact = torch.stack(CountingVFM()(IMAGES))
    assert torch.equal(got[:, [0, 2]], exact[:, [0, 2]]) and torch.equal(got[:, 1], exact[:, 1].half().float())
    assert vfm.batches == [2, 1]
    assert torch.equal(cache(IMAGES), exact)


def test_what_comes_first_stays_when_the_cache_is_full(folder):
    """Views that come in rounds: a cache that dropped the longest unused would never hit."""
    cache = FeatureCache(CountingVFM(), max_gib=2.5 * (ENTRY + HEADER + (16 if folder else 0)) / GIB, folder=folder)
    wanted = FeatureCache(CountingVFM())(IMAGES, ["a", "b", "c"])
    for _ in range(3):
        assert torch.equal(cache(IMAGES, ["a", "b", "c"]), wanted)
    assert (cache.hits, cache.misses) == (4, 5)


def test_what_is_larger_than_the_bound_is_not_kept(folder):
    cache = FeatureCache(CountingVFM(), max_gib=(ENTRY + HEADER - 1) / GIB, folder=folder)
    for _ in range(2):
        cache(IMAGES[:1], ["a"])
    assert (cache.hits, cache.misses) == (0, 2)


def test_disk_outlives_the_process_and_tells_models_apart(tmp_path):
    FeatureCache(CountingVFM(), folder=str(tmp_path))(IMAGES, ["a", "b", "c"])
    again = FeatureCache(CountingVFM(), folder=str(tmp_path))
    again(IMAGES, ["a", "b", "c"])
    assert again.hits == 3
    other = CountingVFM()
    other.fingerprint = "other"
    fresh = FeatureCache(other, folder=str(tmp_path))
    fresh(IMAGES, ["a", "b", "c"])
    assert fresh.hits == 0


def test_other_pixels_under_the_same_name_are_another_entry(folder):
    cache = FeatureCache(CountingVFM(), folder=folder)
    cache(IMAGES[:1], ["a"])
    assert torch.equal(cache(IMAGES[1:2], ["a"]), FeatureCache(CountingVFM())(IMAGES[1:2], ["b"]))
    cache(IMAGES[:1], ["a"])
    assert (cache.hits, cache.misses) == (1, 2)


@pytest.mark.parametrize("change", [{"value_range": "type"}, {"fill": 10.0}, {"file": 1}])
def test_range_fill_and_a_new_file_change_what_is_found(tmp_path, change):
    """The mapper's crop of a deep image that does not fill it, by the key that training gives it."""

    def prepared(value_range="percentiles", fill=95.0, file=0):
        pixels = np.random.default_rng(file).integers(9000, 9500, (40, 50)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        mapper = ISTDMapper(is_train=True, crop=64, views=1, value_range=value_range, fill=fill)
        np.random.seed(0)
        record = {"file_name": str(tmp_path / "a.png"), "image_id": "a", "height": 40, "width": 50}
        image = mapper(record | {"pseudo_mask": np.zeros((40, 50), np.float32)})
        return image["image"][None] / 255, [batch_key(image)]

    cache = FeatureCache(CountingVFM(), folder=str(tmp_path / "features"))
    cache(*prepared())
    cache(*prepared())
    assert (cache.hits, cache.misses) == (1, 1)
    wanted = FeatureCache(CountingVFM())(*prepared(**change))
    assert torch.equal(cache(*prepared(**change)), wanted) and cache.hits == 1


def test_autocast_does_not_change_what_is_kept():
    vfm = build_vfm("test_vit", "random", layers=3)
    image = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    wanted = FeatureCache(vfm)(image, ["a"])
    cache = FeatureCache(vfm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cache(image, ["a"]), wanted)
    assert torch.equal(cache(image, ["a"]), wanted) and cache.hits == 1


def test_damaged_file_is_computed_again(tmp_path):
    cache = FeatureCache(CountingVFM(), folder=str(tmp_path))
    wanted = cache(IMAGES[:1], ["a"])
    (path,) = tmp_path.glob("*/*.npy")
    for damage in (b"", path.read_bytes()[:-5], b"not an array"):
        path.write_bytes(damage)
        assert torch.equal(cache(IMAGES[:1], ["a"]), wanted)
    assert (cache.hits, cache.misses) == (0, 4)


def test_key_only_for_whole_images():
    assert view_key("a.png", (96, 135)) == view_key("a.png", (96, 135), crop=(0, 0, 135, 96))
    assert view_key("a.png", (96, 135), crop=(0, 0, 96, 96)) is None
    assert view_key("a.png", (96, 135), crop=(1, 0, 135, 96)) is None
    keys = {view_key("a.png", (96, 135)), view_key("b.png", (96, 135)), view_key("a.png", (96, 135), variant="flip")}
    assert len(keys) == 3


def test_crops_that_recur_have_a_key_each():
    def key(**options):
        view = View(**{"box": (0, 0, 64, 64), "side": 64} | options)
        return batch_key({"file_name": "a.png", "height": 96, "width": 135, "view": view})

    assert key() is None
    kinds = [{}, {"box": (1, 0, 65, 64)}, {"flip": True}, {"turns": 1}, {"side": 80}]
    assert len({key(recurs=True, **kind) for kind in kinds}) == len(kinds)
    assert key(recurs=True) == key(recurs=True) != key(box=(0, 0, 135, 96), side=135)
