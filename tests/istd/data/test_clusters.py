import json

import numpy as np
import pytest

from istd.data.clusters import (
    ClusterTable,
    default_num_clusters,
    describe_images,
    fit_clusters,
    informative_columns,
    make_clusters,
)
from istd.data.datasets import load_sirst
from istd.data.images import read_infrared


def records(*names):
    return [{"image_id": name, "file_name": f"{name}.png"} for name in names]


def read(file_name):
    """Three kinds of image: dark and smooth, bright and noisy, striped."""
    kind, seed = file_name.split(".")[0].split("_")
    rng = np.random.default_rng(int(seed))
    rows, columns = np.mgrid[:32, :40]
    images = {
        "dark": 30 + rows / 8 + rng.normal(0, 1, (32, 40)),
        "noisy": 150 + rng.normal(0, 30, (32, 40)),
        "striped": 90 + 60 * np.sin(columns / 2) + rng.normal(0, 2, (32, 40)),
    }
    return np.clip(images[kind], 0, 255).astype(np.float32)


@pytest.mark.parametrize(
    "images, clusters", [(0, 0), (1, 1), (2, 2), (10, 2), (64, 8), (213, 26), (2048, 256), (9000, 256)]
)
def test_the_number_of_clusters_follows_the_images(images, clusters):
    assert default_num_clusters(images) == clusters


def test_kinds_of_images_become_clusters():
    names = [f"{kind}_{seed}" for seed in range(4) for kind in ("dark", "noisy", "striped")]
    table = make_clusters(records(*names), read, num_clusters=3)
    assert table.num_clusters == 3 and len(table) == 12 and list(table) == names
    assert [table[name] for name in names[:3]] == [0, 1, 2]  # numbered by their first image
    for kind in ("dark", "noisy", "striped"):
        assert len({table[name] for name in names if name.startswith(kind)}) == 1
    assert 1 <= len(table.features) <= 32


def test_assigned_images_do_not_change_the_fit():
    names = [f"{kind}_{seed}" for seed in range(4) for kind in ("dark", "noisy", "striped")]
    alone = make_clusters(records(*names), read, num_clusters=3)
    table = make_clusters(records(*names), read, assigned=records("noisy_90", "dark_91"), num_clusters=3)
    assert {name: table[name] for name in names} == dict(alone)
    assert table["noisy_90"] == table["noisy_0"] and table["dark_91"] == table["dark_0"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images(count):
    names = [f"noisy_{seed}" for seed in range(count)]
    table = make_clusters(records(*names), read)
    assert table.num_clusters == min(count, 2)
    assert make_clusters(records(*names), read, num_clusters=50).num_clusters == count


def test_equal_images_share_a_cluster():
    features = np.tile(np.arange(6.0), (9, 1))
    assert fit_clusters(features, num_clusters=4).predict(features).tolist() == [0] * 9
    features[5:] += np.arange(6.0)
    assert fit_clusters(features, num_clusters=4).predict(features).tolist() == [0] * 5 + [1] * 4


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="no image to make clusters of"):
        make_clusters([], read)


def test_an_id_twice_is_an_error():
    with pytest.raises(ValueError, match=r"'dark_0' occurs twice \(dark_0\.png\)"):
        describe_images(records("dark_0", "dark_0"), read)


def test_columns_that_tell_nothing_are_dropped():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 50))
    features = np.stack([np.full(50, 3.0), first, -2 * first + 1e-3 * second, second, first + second], axis=1)
    assert informative_columns(features) == [1, 3, 4]
    assert informative_columns(features[:, :1]) == [] and informative_columns(features[:, :2]) == [1]


def test_only_the_32_best_columns_are_used():
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1], 40)
    features = rng.normal(size=(80, 50))
    features[:, 7] += 8 * kind
    features[:, 30] -= 8 * kind
    model = fit_clusters(features, num_clusters=2)
    assert len(model.columns) == 32 and set(model.columns[:2]) == {7, 30}
    assert np.mean(model.predict(features) == kind) > 0.9


def test_the_same_seed_gives_the_same_clusters():
    features = np.random.default_rng(0).normal(size=(30, 8))
    one, two = (fit_clusters(features, num_clusters=4, seed=1).predict(features) for _ in range(2))
    assert np.array_equal(one, two)


def test_saving_and_loading(tmp_path):
    path = tmp_path / "new" / "c.json"
    ClusterTable({"a": 0, "b": 2}, features=["mean"]).save(path)
    table = ClusterTable.load(path)
    assert dict(table) == {"a": 0, "b": 2} and table.num_clusters == 3 and table.features == ["mean"]
    table.require(["a", "b"])
    with pytest.raises(KeyError, match=r"image 'z' is not in the cluster file .*c\.json: make it again"):
        table.require(["a", "z"])
    assert "z" not in table and ClusterTable({}).num_clusters == 0


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"c\.json does not exist: make it with"):
        ClusterTable.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        {"format": 2, "clusters": {}},
        {"format": 1, "clusters": {"a": -1}},
        {"format": 1, "clusters": {"a": "x"}},
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "c.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=r"c\.json is not a cluster file"):
        ClusterTable.load(tmp_path / "c.json")


def test_real_images(shared):
    dicts = load_sirst(shared / "data" / "sirst", "val")[:30]
    table = make_clusters(dicts, read_infrared)
    sizes = np.bincount(list(table.values()))
    assert len(table) == 30 and table.num_clusters == 3 and sizes.min() >= 1 and sizes.max() < 25
