"""Synthetic scenes by name."""

from detectron2.data import DatasetCatalog, MetadataCatalog

from istd.data import builtin
from istd.data.synthetic import write_scenes


def test_scenes_are_written_on_first_use(tmp_path, monkeypatch):
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
