import shutil
from functools import partial

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from s4m.data import builtin
from s4m.data.builtin import (
    FOLDS,
    PERCENTS,
    register_cityscapes,
    register_coco_2017,
    register_shapes,
    register_voc_2012,
)
from s4m.data.cityscapes import prepare_cityscapes
from s4m.data.coco import register_coco_json
from s4m.data.shapes import write_shapes
from s4m.data.splits import write_splits
from s4m.data.voc_instances import prepare_voc


@pytest.fixture
def catalog(monkeypatch):
    """Catalogs without our names, which another root may have taken when the package was imported."""
    for each in (DatasetCatalog, MetadataCatalog):
        ours = [k for k in each.data if k == "coco_2017_unlabeled" or "_fold" in k or "voc_2012_instances" in k]
        others = {k: v for k, v in each.data.items() if k not in ours}
        monkeypatch.setattr(each, "data", others)


def test_names_find_what_make_splits_writes(tmp_path, catalog, monkeypatch):
    monkeypatch.setattr(builtin, "_get_builtin_metadata", lambda name: {})
    coco = tmp_path / "coco"
    made = write_shapes(coco / "made", 20, seed=0, image_size=(48, 48))
    (coco / "annotations").mkdir()
    made.rename(coco / "annotations" / "instances_train2017.json")
    (coco / "made" / "images").rename(coco / "train2017")
    write_splits(coco / "annotations" / "instances_train2017.json", [10, 50], 1, 0, allow_missing_classes=True)
    register_coco_2017(str(tmp_path))
    register_coco_2017(str(tmp_path))
    assert len(DatasetCatalog.get("coco_2017_train_10_fold0")) == 2
    assert len(DatasetCatalog.get("coco_2017_train_10_fold0_unlabeled")) == 18
    assert len(DatasetCatalog.get("coco_2017_train_50_fold0")) == 10


def test_names_cover_percents_and_folds_with_cocos_metadata(tmp_path, catalog):
    register_coco_2017(str(tmp_path))
    names = [name for name in DatasetCatalog.list() if name.startswith("coco_2017_train_")]
    assert len([n for n in names if "fold" in n]) == len(PERCENTS) * FOLDS * 2
    metadata = MetadataCatalog.get("coco_2017_train_0.5_fold4")
    assert len(metadata.thing_classes) == 80
    assert metadata.json_file == str(
        tmp_path / "coco" / "annotations" / "splits" / "instances_train2017_0.5_fold4.json"
    )
    unlabeled = MetadataCatalog.get("coco_2017_unlabeled")
    assert unlabeled.image_root == str(tmp_path / "coco" / "unlabeled2017")


def test_names_that_are_taken_stay(tmp_path, catalog):
    DatasetCatalog.register("coco_2017_unlabeled", lambda: ["mine"])
    register_coco_2017(str(tmp_path))
    assert DatasetCatalog.get("coco_2017_unlabeled") == ["mine"]


def test_absent_split_is_named_when_loaded(tmp_path, catalog):
    register_coco_2017(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"instances_train2017_1_fold0\.json' does not exist"):
        DatasetCatalog.get("coco_2017_train_1_fold0")


def test_real_unlabeled_images(shared, catalog):
    root = shared / "data" / "coco128"
    register_coco_json(
        "coco_2017_unlabeled", root / "annotations" / "image_info_unlabeled2017.json", root / "unlabeled2017"
    )
    assert len(DatasetCatalog.get("coco_2017_unlabeled")) == 28


def test_names_find_what_prepare_voc_writes(tmp_path, voc_tree, catalog):
    shutil.copytree(voc_tree.voc, tmp_path / "VOC2012")
    written = prepare_voc(tmp_path / "VOC2012", sbd=voc_tree.sbd)
    write_splits(written["train_aug"], [10, 50], 1, 0, allow_missing_classes=True)
    register_voc_2012(str(tmp_path))
    register_voc_2012(str(tmp_path))
    sizes = {name: len(DatasetCatalog.get(f"voc_2012_instances_{name}")) for name in ("train", "val", "train_aug")}
    assert sizes == {"train": 3, "val": 2, "train_aug": 8}
    assert len(DatasetCatalog.get("voc_2012_instances_train_aug_10_fold0")) == 1
    assert len(DatasetCatalog.get("voc_2012_instances_train_aug_50_fold0_unlabeled")) == 4
    names = [name for name in DatasetCatalog.list() if name.startswith("voc_2012_instances_train_aug_")]
    assert len(names) == len(PERCENTS) * FOLDS * 2
    metadata = MetadataCatalog.get("voc_2012_instances_val")
    assert metadata.evaluator_type == "voc_instances" and len(metadata.thing_classes) == 20
    assert metadata.dirname == str(tmp_path / "VOC2012")


def test_names_find_fractions_of_voc_without_sbd(tmp_path, voc_tree, catalog):
    shutil.copytree(voc_tree.voc, tmp_path / "VOC2012")
    write_splits(prepare_voc(tmp_path / "VOC2012")["train"], [50], 1, 0, allow_missing_classes=True)
    register_voc_2012(str(tmp_path))
    parts = ["50_fold0", "50_fold0_unlabeled"]
    dicts = [DatasetCatalog.get(f"voc_2012_instances_train_{part}") for part in parts]
    assert sorted(len(part) for part in dicts) == [1, 2] and dicts[0][0]["annotations"]
    assert MetadataCatalog.get("voc_2012_instances_train_50_fold0").evaluator_type == "voc_instances"
    assert not [name for name in DatasetCatalog.list() if name.startswith("voc_2012_instances_val_")]


def test_names_find_what_prepare_cityscapes_writes(tmp_path, cityscapes_tree, catalog):
    shutil.copytree(cityscapes_tree / "cityscapes", tmp_path / "cityscapes")
    write_splits(prepare_cityscapes(tmp_path / "cityscapes"), [20], 1, 0)
    register_cityscapes(str(tmp_path))
    register_cityscapes(str(tmp_path))
    labeled = DatasetCatalog.get("cityscapes_fine_instance_seg_train_20_fold0")
    assert len(labeled) == 2 and {a["category_id"] for d in labeled for a in d["annotations"]} == {0, 2}
    assert len(DatasetCatalog.get("cityscapes_fine_instance_seg_train_20_fold0_unlabeled")) == 8
    names = [name for name in DatasetCatalog.list() if name.startswith("cityscapes_fine_instance_seg_train_")]
    assert len(names) == len(PERCENTS) * FOLDS * 2
    metadata = MetadataCatalog.get("cityscapes_fine_instance_seg_train_30_fold4")
    assert len(metadata.thing_classes) == 8 and metadata.evaluator_type == "coco"


def test_shapes_are_written_on_first_use(tmp_path, catalog, monkeypatch):
    monkeypatch.setattr(builtin, "write_shapes", few_shapes)
    monkeypatch.setattr(builtin, "write_splits", partial(write_splits, allow_missing_classes=True))
    for name in ("shapes_train_5", "shapes_train_5_unlabeled", "shapes_val"):
        monkeypatch.delitem(DatasetCatalog.data, name, raising=False)
        monkeypatch.delitem(MetadataCatalog.data, name, raising=False)
    register_shapes(str(tmp_path))
    assert not list(tmp_path.iterdir())
    assert len(DatasetCatalog.get("shapes_train_5")) == 2
    assert len(DatasetCatalog.get("shapes_train_5_unlabeled")) == 38
    assert len(DatasetCatalog.get("shapes_val")) == 2
    assert MetadataCatalog.get("shapes_val").thing_classes == ["circle", "square", "triangle"]
    assert MetadataCatalog.get("shapes_val").evaluator_type == "coco"


def few_shapes(folder, count, **more):
    return write_shapes(folder, count // 50, **more)
