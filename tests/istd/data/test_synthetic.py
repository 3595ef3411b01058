import numpy as np
import pytest

from istd.data.datasets import load_sirst
from istd.data.images import read_infrared, read_mask
from istd.data.scenery import CHARACTERISTICS, CLUTTERS, add_targets, fractal
from istd.data.synthetic import make_scene, write_scenes
from istd.pseudo_masks.initialize import initialize_mask


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "data"
    assert write_scenes(root, 40, seed=3, size=(96, 160)) == {"train": 24, "val": 6, "test": 10}
    return root


def test_it_loads_like_a_real_set(root):
    dicts = [record for split in ("train", "val", "test") for record in load_sirst(root, split)]
    assert len({record["image_id"] for record in dicts}) == 40
    kinds = {record["characteristic"] for record in dicts}
    assert set(CHARACTERISTICS) <= kinds <= {*CHARACTERISTICS, "empty"}
    for record in dicts:
        mask = read_mask(record["mask_file"])
        assert all(mask[y, x] for x, y in record["points"])
        assert bool(record["points"]) == (record["characteristic"] != "empty") == bool(mask.any())
        assert 96 <= record["height"] <= 160 and 96 <= record["width"] <= 160
    coarse = load_sirst(root, "train", points="masks_coarse")
    assert [len(r["points"]) for r in coarse] == [len(r["points"]) for r in load_sirst(root, "train")]


def test_every_split_has_every_characteristic(root):
    for split in ("train", "val", "test"):
        assert {record["characteristic"] for record in load_sirst(root, split)} >= set(CHARACTERISTICS) - {"empty"}


def test_the_same_seed_writes_the_same_bytes(root, tmp_path):
    write_scenes(tmp_path / "again", 40, seed=3, size=(96, 160))
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len(files) == 4 * 40 + 4
    assert all((root / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    write_scenes(tmp_path / "other", 2, seed=4)
    first = "images/scene_00000.png"
    assert (root / first).read_bytes() != (tmp_path / "other" / first).read_bytes()


def test_a_data_set_is_not_written_over(root):
    with pytest.raises(FileExistsError, match="already holds a data set"):
        write_scenes(root, 1)


def test_no_scene_and_empty_scenes(tmp_path):
    assert write_scenes(tmp_path / "none", 0) == {"train": 0, "val": 0, "test": 0}
    write_scenes(tmp_path / "empty", 3, empty_share=1.0, size=(64, 64), splits=(1.0, 0.0))
    assert [record["points"] for record in load_sirst(tmp_path / "empty", "train")] == [[], [], []]
    rows = (tmp_path / "empty" / "characteristics.csv").read_text().splitlines()
    assert rows[0] == "image,characteristic,clutter" and all(",empty," in row for row in rows[1:])


@pytest.mark.parametrize("clutter", CLUTTERS)
@pytest.mark.parametrize("size", [(64, 64), (96, 135), (130, 64)])
def test_targets_are_small_and_bright(clutter, size):
    for index, kind in enumerate(CHARACTERISTICS):
        image, mask = make_scene(0, index, size=size, characteristic=kind, clutter=clutter)
        assert image.shape == mask.shape == size and image.dtype == mask.dtype == np.uint8
        assert 0 < mask.sum() < 200 and set(np.unique(mask)) == {0, 1}
        assert image[mask > 0].mean() > image[mask == 0].mean() - image.std()


def test_contrast_follows_the_characteristic():
    def contrast(kind):
        scene = 100 + 5 * fractal(np.random.default_rng(0), 128, 128, 2.0)
        gains = []
        for seed in range(10):
            new, mask = add_targets(np.random.default_rng(seed), scene, kind, 1)
            gains.append((new - scene)[mask > 0].mean())
        return np.mean(gains)

    assert contrast("salient") > contrast("filamentary") > contrast("faint")
    assert contrast("salient") > contrast("camouflaged")


def test_a_scene_without_room_for_more_targets():
    _, mask = add_targets(np.random.default_rng(0), np.full((32, 32), 90, np.float32), "salient", 30)
    assert 0 < mask.sum() < 200


def test_start_masks_find_salient_targets_more_often_than_camouflaged(root):
    rates = {kind: [] for kind in (*CHARACTERISTICS, "empty")}
    for record in [r for split in ("train", "val", "test") for r in load_sirst(root, split)]:
        rates[record["characteristic"]] += initialize_mask(read_infrared(record["file_name"]), record["points"])[
            1
        ].tolist()
    assert np.mean(rates["salient"]) > 0.5 > np.mean(rates["camouflaged"])
