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
    hidden = ("._b.JPG", ".DS_Store", ".thumbnails/a.png", "__MACOSX/._a.png")
    for name in ("b.JPG", "a.png", "deep/er/c.tif", "notes.txt", "list.json", *hidden):
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


@pytest.mark.parametrize("names", ["run_12:30", "C:data", "a b:c:d"])
def test_paths_may_hold_colons(coco, tmp_path, names, monkeypatch):
    folder = tmp_path / names
    folder.mkdir()
    (coco / "set.json").rename(folder / "set.json")
    (coco / "pictures").rename(folder / "pictures")
    monkeypatch.chdir(tmp_path)
    for base in (names, folder):
        entry = f"coco:{base}/set.json:{base}/pictures"
        resolve_datasets([entry])
        assert len(DatasetCatalog.get(entry)) == 1
        DatasetCatalog.remove(entry)
        MetadataCatalog.remove(entry)


def test_a_path_with_colons_that_does_not_exist_is_told(coco):
    with pytest.raises(ValueError, match="is not registered, and none of its colons parts .* as s4m:my_data.yaml does"):
        resolve_datasets([f"coco:{coco}/12:30/set.json:{coco}/pictures"])


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_file_describes_a_data_set(coco, form, mark):
    keys = {"json": "set.json", "images": ".\\pictures", "evaluation": "coco"}
    content = json.dumps(keys) if form == "json" else "".join(f"{key}: {value}\n" for key, value in keys.items())
    file = coco / f"my data.{form}"
    file.write_text(mark + content, encoding="utf-8")
    [name] = resolve_datasets([f"s4m:{file}"])
    [record] = DatasetCatalog.get(name)
    assert record["annotations"] and record["file_name"] == str(coco / "pictures" / "a.png")
    assert MetadataCatalog.get(name).evaluator_type == "coco"


def test_a_file_describes_unlabeled_images_in_the_home_folder(coco, monkeypatch):
    monkeypatch.setenv("HOME", str(coco))
    (coco / "more.yaml").write_text("images: ~/pictures")
    [name] = resolve_datasets(["s4m:~/more.yaml"])
    assert len(DatasetCatalog.get(name)) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("json: set.json", "lacks the key images"),
        ("images: pictures\nmasks: m", "has the unknown key 'masks'; known are images, json, classes, evaluation"),
        ("images: 3", "images is 3, but must be text"),
        ("images: pictures\nevaluation: lvis", "evaluation is 'lvis', but must be coco or voc"),
        ("images: [", "is no yaml or json file"),
        ("pictures", "describes no data set"),
        ("images: pictures\nclasses: cat", "classes is 'cat', but must be a list of names"),
        ("images: nowhere", "images '.*nowhere' does not exist"),
    ],
)
def test_a_faulty_description_is_one_sentence_that_names_its_file(coco, content, message):
    (coco / "my.yaml").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        resolve_datasets([f"s4m:{coco}/my.yaml"])
    assert "my.yaml" in str(caught.value) and "\n" not in str(caught.value)
