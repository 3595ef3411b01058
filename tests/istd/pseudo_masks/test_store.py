import json
import pickle

import numpy as np
import pytest

from istd.pseudo_masks.store import MaskReader, PseudoMaskStore


def mask(value, shape=(12, 16)):
    result = np.zeros(shape, np.float32)
    result[3:6, 4:8] = value
    return result


@pytest.fixture
def store(tmp_path):
    return PseudoMaskStore.create(tmp_path / "s", {"a": mask(1.0), "b": mask(0.7), "c": mask(0)}, pool=["a"], keep=3)


def test_an_empty_store(tmp_path):
    PseudoMaskStore.create(tmp_path, {}, pool=[])
    store = PseudoMaskStore.open(tmp_path)
    assert store.image_ids == [] and store.waiting == [] and store.drift() == []
    assert store.update({}, epoch=1)["summary"]["images"] == 0 and store.version == 1


def test_it_reopens_as_it_was(store):
    store.update({"a": mask(0.123456789)}, epoch=65, enter=["b"])
    again = PseudoMaskStore.open(store.folder)
    assert (again.version, again.epoch) == (1, 65)
    assert again.pool == {"a", "b"} and again.waiting == ["c"] and again.image_ids == ["a", "b", "c"]
    assert np.array_equal(again.mask("a"), mask(0.123456789)) and np.array_equal(again.mask("b"), mask(0.7))
    assert again.state_dict() == store.state_dict()


def test_the_drift_report(store):
    grown = mask(1.0)
    grown[6, 4:8] = 0.9
    report = store.update({"a": grown, "c": mask(0)}, epoch=5, enter=["c"])
    assert report["images"]["a"] == {"area_before": 12, "area_after": 16, "iou": 0.75}
    assert report["images"]["c"] == {"area_before": 0, "area_after": 0, "iou": 1.0}
    assert report["entered"] == ["c"] and report["pool"] == 2 and report["version"] == 1
    assert report["summary"] == {
        "images": 2,
        "area_before": 12,
        "area_after": 16,
        "area_change": 0.333333,
        "iou_mean": 0.875,
        "iou_min": 0.75,
        "unchanged": 1,
    }
    lines = (store.folder / "drift.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [report] == PseudoMaskStore.open(store.folder).drift()


def test_only_the_last_versions_stay(store):
    for epoch in range(1, 6):
        store.update({"a": mask(epoch / 10)}, epoch=epoch)
    names = sorted(path.name for path in store.folder.iterdir())
    assert names == ["drift.jsonl", "masks-000003.npz", "masks-000004.npz", "masks-000005.npz", "store.json"]
    assert len(store.drift()) == 5


def test_a_checkpoint_goes_back_to_its_version(store):
    states = [store.state_dict()]
    for epoch in (1, 2):
        store.update({"a": mask(epoch / 10)}, epoch=epoch)
        states.append(store.state_dict())
    again = PseudoMaskStore.open(store.folder)
    again.load_state_dict(states[1])
    assert again.version == 1 and np.array_equal(again.mask("a"), mask(0.1))
    assert [report["version"] for report in again.drift()] == [1]
    assert not (store.folder / "masks-000002.npz").exists()
    again.update({"a": mask(0.2)}, epoch=2)
    assert again.state_dict() == states[2]  # the same update gives the same version
    assert [report["version"] for report in again.drift()] == [1, 2]


def test_a_version_that_is_gone_or_another_is_refused(store):
    first = store.state_dict()
    for epoch in range(1, 5):
        store.update({"a": mask(epoch / 10)}, epoch=epoch)
    with pytest.raises(ValueError, match=r"trained on version 0 .*it has \[2, 3, 4\]"):
        store.load_state_dict(first)
    with pytest.raises(ValueError, match="trained on version 3"):
        store.load_state_dict({"version": 3, "digest": "of another run"})
    with pytest.raises(ValueError, match="masks-000001.npz is missing"):
        store.rewind(1)
    assert store.version == 4


def test_what_an_update_refuses_leaves_the_store_as_it_was(store):
    before = store.state_dict()
    with pytest.raises(KeyError, match="image 'z' is not in the pseudo-mask store"):
        store.update({"z": mask(1)}, epoch=1)
    with pytest.raises(ValueError, match=r"image 'a' has shape \(2, 2\)"):
        store.update({"a": np.zeros((2, 2))}, epoch=1)
    with pytest.raises(ValueError, match="image 'z' is to be in the pool"):
        store.update({}, epoch=1, enter=["z"])
    assert store.state_dict() == before == PseudoMaskStore.open(store.folder).state_dict()


def test_create_and_overwrite(store):
    with pytest.raises(FileExistsError, match="store.json exists"):
        PseudoMaskStore.create(store.folder, {}, pool=[])
    store.update({"a": mask(0.5)}, epoch=1)
    new = PseudoMaskStore.create(store.folder, {"x": mask(1)}, pool=["x"], overwrite=True)
    assert new.version == 0 and PseudoMaskStore.open(store.folder).image_ids == ["x"] and new.drift() == []
    assert not (store.folder / "masks-000001.npz").exists()
    with pytest.raises(ValueError, match="'x' occurs twice"):
        PseudoMaskStore.create(store.folder, [("x", mask(1)), ("x", mask(1))], pool=[], overwrite=True)
    assert PseudoMaskStore.open(store.folder).image_ids == ["x"]


def test_readers_follow_the_writer(store):
    reader = pickle.loads(pickle.dumps(store.reader()))
    assert isinstance(reader, MaskReader) and np.array_equal(reader("a"), mask(1.0))
    store.update({"a": mask(0.25)}, epoch=1)
    assert np.array_equal(reader("a"), mask(0.25))
    other = PseudoMaskStore.open(store.folder, clean=False)
    store.update({"a": mask(0.5)}, epoch=2)
    other.refresh()
    assert other.version == 2 and np.array_equal(other.mask("a"), mask(0.5))
    with pytest.raises(KeyError, match="image 'z' is not in the pseudo-mask store"):
        reader("z")


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"store\.json does not exist"):
        PseudoMaskStore.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 9, "version": 0, "versions": {}}'])
def test_a_damaged_pointer_is_named(store, content):
    (store.folder / "store.json").write_text(content)
    with pytest.raises(ValueError, match=r"store\.json is damaged"):
        PseudoMaskStore.open(store.folder)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "missing", "other version"])
def test_a_damaged_version_is_named(store, damage):
    path = store.folder / "masks-000000.npz"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[60] ^= 0xFF
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    else:
        store.update({"a": mask(0.5)}, epoch=1)
        path.replace(store.folder / "masks-000001.npz")
    with pytest.raises(ValueError, match=r"masks-00000[01]\.npz is (damaged|missing)"):
        PseudoMaskStore.open(store.folder)


def test_a_damaged_drift_file_is_named(store):
    (store.folder / "drift.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"drift\.jsonl is damaged"):
        store.update({"a": mask(0.5)}, epoch=1)
    assert store.version == 0
