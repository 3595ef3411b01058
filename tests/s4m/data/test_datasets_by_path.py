import json

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from s4m.config import add_s4m_config
from s4m.data.datasets_by_path import (
    load_image_folder,
    register_image_folder,
    resolve_config_datasets,
    resolve_datasets,
)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "a.png", "deep/er/c.tif", "notes.txt", "list.json"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "pictures"


def test_images_are_found_in_depth_and_sorted(folder):
    dicts = load_image_folder(folder)
    assert [d["image_id"] for d in dicts] == ["a.png", "b.JPG", "deep/er/c.tif"]
    assert dicts[2]["file_name"] == str(folder / "deep" / "er" / "c.tif")


def test_empty_and_absent_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no image") as caught:
        load_image_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        load_image_folder(tmp_path / "nowhere")


def test_registration_is_idempotent_and_guards_the_name(folder, tmp_path):
    for _ in range(2):
        register_image_folder("test_folder_named", folder)
    with pytest.raises(ValueError, match="'test_folder_named' is already registered"):
        register_image_folder("test_folder_named", tmp_path)
    assert len(DatasetCatalog.get("test_folder_named")) == 3


@pytest.fixture
def coco(folder):
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 5}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 2, 0, 2, 2]]}
        ],
    }
    (folder.parent / "set.json").write_text(json.dumps(data))
    return folder.parent


def test_entries_by_path_become_names(folder, coco):
    entries = (f"folder:{folder}", f"coco:{coco}/set.json:{folder}", "coco_2017_val")
    assert resolve_datasets(entries) == resolve_datasets(entries) == entries
    assert len(DatasetCatalog.get(entries[0])) == 3
    assert len(DatasetCatalog.get(entries[1])[0]["annotations"]) == 1
    assert MetadataCatalog.get(entries[1]).json_file == f"{coco}/set.json"


def test_relative_paths_are_looked_up_under_detectron2_datasets(coco, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(coco))
    entry = "coco:set.json:pictures"
    resolve_datasets([entry])
    assert DatasetCatalog.get(entry)[0]["file_name"] == str(coco / "pictures" / "a.png")
    DatasetCatalog.remove(entry)
    MetadataCatalog.remove(entry)


@pytest.mark.parametrize("entry", ["unheard_of", "coco:only.json", "coco:a:b:c", "folder:", "zip:a.zip"])
def test_other_entries_are_refused(entry):
    with pytest.raises(ValueError, match=rf"data set '{entry}' is not registered"):
        resolve_datasets([entry])


@pytest.mark.parametrize("key", ["TRAIN", "TEST", "UNLABELED"])
def test_the_key_of_a_wrong_entry_is_named(key, folder):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.DATASETS[key] = (f"folder:{folder}", "folder:not/there")
    with pytest.raises(FileNotFoundError, match=rf"DATASETS\.{key}: data set 'folder:not/there'"):
        resolve_config_datasets(cfg)
