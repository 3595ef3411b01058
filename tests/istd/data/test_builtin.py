"""Synthetic scenes by name."""

from detectron2.data import DatasetCatalog, MetadataCatalog

from istd.data import builtin
from istd.data.synthetic import write_scenes


def test_scenes_are_written_on_first_use(tmp_path, monkeypatch):
    builtin.register_scenes()  # What this test replaces is there, whichever test ran before.
    monkeypatch.setattr(builtin, "write_scenes", small_scenes)
    for name in ("scenes_train", "scenes_val", "scenes_test"):
        monkeypatch.delitem(DatasetCatalog.data, name)
        monkeypatch.delitem(MetadataCatalog.data, name, raising=False)
    builtin.register_scenes(str(tmp_path))
    assert not list(tmp_path.iterdir())
    lengths = [len(DatasetCatalog.get(f"scenes_{split}")) for split in ("train", "val", "test")]
    assert sum(lengths) == 20 and all(lengths)
    assert MetadataCatalog.get("scenes_val").evaluator_type == "istd"
    before = (tmp_path / "scenes" / "train.txt").stat().st_mtime_ns
    assert len(DatasetCatalog.get("scenes_train")) == lengths[0]
    assert (tmp_path / "scenes" / "train.txt").stat().st_mtime_ns == before


def small_scenes(root, count, *, seed):
    assert (count, seed) == (300, 1)
    return write_scenes(root, 20, seed=seed, size=(48, 64))


def test_what_an_interrupted_process_left_is_replaced(tmp_path):
    folder = tmp_path / "scenes5"
    (tmp_path / "scenes5.part" / "images").mkdir(parents=True)
    builtin.write_scenes_once(folder, 5)
    assert len(list((folder / "images").iterdir())) == 5 and not (tmp_path / "scenes5.part").exists()
    before = (folder / "train.txt").stat().st_mtime_ns
    builtin.write_scenes_once(folder, 5)
    assert (folder / "train.txt").stat().st_mtime_ns == before
