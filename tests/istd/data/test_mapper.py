import copy
import pickle
from collections import defaultdict

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from d2kit.rng import seeded
from istd.config import add_istd_config
from istd.data.clusters import ClusterTable
from istd.data.mapper import ISTDMapper


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_istd_config(cfg)
    cfg.ISTD.INPUT.CROP = 64
    return cfg


def record(folder, height=96, width=135, points=((20, 30),), mask=True):
    rng = np.random.default_rng(0)
    image, truth = rng.integers(0, 200, (height, width)).astype(np.uint8), np.zeros((height, width), np.uint8)
    for x, y in points:
        truth[y, x] = 255
    cv2.imwrite(str(folder / "a.png"), image)
    cv2.imwrite(str(folder / "m.png"), truth)
    result = {"file_name": str(folder / "a.png"), "image_id": "a", "height": height, "width": width}
    result["points"] = [list(point) for point in points]
    return {**result, "mask_file": str(folder / "m.png")} if mask else result


def soft_mask(height=96, width=135):
    return np.random.default_rng(1).random((height, width), dtype=np.float32)


@pytest.mark.parametrize("size", [(96, 135), (40, 50), (40, 200), (1080, 1918)])
@pytest.mark.parametrize("points", [(), ((20, 30),), ((0, 0), (49, 39), (7, 7))])
def test_training_crops(tmp_path, cfg, size, points):
    given = record(tmp_path, *size, points=points)
    before = copy.deepcopy(given)
    soft = soft_mask(*size)
    mapper = ISTDMapper(cfg, True, pseudo_masks=defaultdict(lambda: soft))
    for seed in range(3):
        with seeded(seed):
            result = mapper(given)
        assert result["image"].shape == (3, 64, 64) and result["image"].dtype == torch.float32
        assert torch.equal(result["image"][0], result["image"][2])
        assert np.array_equal(result["pseudo_mask"].numpy(), result["view"].apply(soft))
        grey = cv2.imread(given["file_name"], cv2.IMREAD_UNCHANGED).astype(np.float32)
        assert np.array_equal(result["image"][0].numpy(), result["view"].apply(grey, fill=np.float32(95.010)))
        assert result["points"] == result["view"].apply_points(given["points"])
        assert (result["image_id"], result["height"], result["width"]) == ("a", *size)
        assert "cluster" not in result and "mask" not in result
    assert given == before


def test_testing_takes_the_whole_image(tmp_path, cfg):
    given = record(tmp_path)
    cfg.ISTD.INPUT.CHANNELS = 1
    result = ISTDMapper(cfg, False)(given)
    assert result["image"].shape == (1, 96, 135) and result["mask"].dtype == torch.uint8
    assert np.argwhere(result["mask"].numpy()).tolist() == [[30, 20]] and result["points"] == [[20, 30]]
    assert "mask" not in ISTDMapper(cfg, False)(record(tmp_path, mask=False))


def test_the_same_seed_gives_the_same_sample(tmp_path, cfg):
    mapper = pickle.loads(pickle.dumps(ISTDMapper(cfg, True, use_masks=True)))
    given = record(tmp_path)
    samples = []
    for seed in (5, 5, 6):
        with seeded(seed):
            samples.append(mapper(given))
    assert samples[0]["view"] == samples[1]["view"] != samples[2]["view"]
    assert torch.equal(samples[0]["image"], samples[1]["image"])


def test_a_bounded_number_of_crops(tmp_path, cfg):
    cfg.ISTD.INPUT.VIEWS = 3
    mapper = ISTDMapper(cfg, is_train=True, use_masks=True)
    dicts = record(tmp_path)
    crops = {mapper(dicts)["image"].numpy().tobytes() for _ in range(40)}
    assert len(crops) == 3


def test_where_the_label_comes_from(tmp_path, cfg):
    given = record(tmp_path)
    full = ISTDMapper(cfg, True, use_masks=True)
    assert np.argwhere(full.label(given)).tolist() == [[30, 20]] and full.label(given).max() == 1
    own = {**given, "pseudo_mask": soft_mask()}
    assert np.array_equal(full.label(own), soft_mask())
    with pytest.raises(ValueError, match=r"a\.png has no label"):
        ISTDMapper(cfg, True)(given)
    with pytest.raises(ValueError, match=r"a\.png has no mask, and full supervision needs one"):
        full(record(tmp_path, mask=False))


def test_crops_hold_targets_of_the_label_when_there_are_no_points(tmp_path, cfg):
    cfg.ISTD.INPUT.TARGET_CROP = 1.0
    given = record(tmp_path, 300, 400, points=((399, 299),))
    del given["points"]
    mapper = ISTDMapper(cfg, True, use_masks=True)
    for seed in range(5):
        with seeded(seed):
            result = mapper(given)
        assert result["pseudo_mask"].sum() == 1 and "points" not in result


def test_clusters(tmp_path, cfg):
    given = record(tmp_path)
    assert ISTDMapper(cfg, True, use_masks=True, clusters=ClusterTable({"a": 3}))(given)["cluster"] == 3
    with pytest.raises(KeyError, match="image 'a' is not in the cluster file c.json"):
        ISTDMapper(cfg, True, use_masks=True, clusters=ClusterTable({"b": 0}, "c.json"))(given)


@pytest.mark.parametrize("is_train", [True, False])
def test_sizes_that_do_not_agree_are_named(tmp_path, cfg, is_train):
    given = record(tmp_path)
    mapper = ISTDMapper(cfg, is_train, use_masks=True)
    with pytest.raises(ValueError, match=r"image .*a\.png has shape \(96, 135\), but the data set says 96x136"):
        mapper({**given, "width": 136})
    cv2.imwrite(given["mask_file"], np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"mask of .*a\.png has shape \(4, 4\)"):
        mapper(given)


def test_bad_options(cfg):
    with pytest.raises(ValueError, match="CHANNELS must be 1 or 3"):
        ISTDMapper(is_train=True, channels=2)
    with pytest.raises(ValueError, match="CROP must be at least 1"):
        ISTDMapper(is_train=True, crop=0)


def test_the_finite_set_of_views_follows_the_seed(tmp_path, cfg):
    given = record(tmp_path)
    cfg.ISTD.INPUT.VIEWS = 2

    def views(seed):
        cfg.SEED = seed
        mapper, found = ISTDMapper(cfg, True, pseudo_masks=defaultdict(soft_mask)), set()
        for draw in range(20):
            with seeded(draw):
                found.add(mapper(given)["view"])
        return found

    assert len(views(1)) == 2 and views(1) == views(1)
    assert views(1).isdisjoint(views(2)) and views(-1) == views(0)


def test_dark_targets_become_bright_ones(tmp_path, cfg):
    given = record(tmp_path)
    bright = ISTDMapper(cfg, False)(given)["image"]
    cfg.ISTD.INPUT.POLARITY = "dark"
    assert torch.equal(ISTDMapper(cfg, False)(given)["image"], 255 - bright)
    cfg.ISTD.INPUT.POLARITY = "both"
    assert torch.equal(ISTDMapper(cfg, False)(given)["image"], bright)
    cfg.ISTD.INPUT.POLARITY = "black"
    with pytest.raises(ValueError, match="ISTD.INPUT.POLARITY must be one of bright, dark, both, not 'black'"):
        ISTDMapper(cfg, False)
