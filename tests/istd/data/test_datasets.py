import logging

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from istd import add_istd_config
from istd.data.datasets import load_sirst, register_sirst, resolve_config_datasets, resolve_datasets


def write(path, size=(20, 30), points=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros(size, np.uint8)
    for x, y in points:
        picture[y, x] = 255
    assert cv2.imwrite(str(path), picture)


@pytest.fixture
def root(tmp_path):
    for name, points in (("a", [(4, 5)]), ("b", []), ("c", [(1, 1), (9, 9)])):
        write(tmp_path / "images" / f"{name}.png")
        write(tmp_path / "masks" / f"{name}.png", points=points)
        write(tmp_path / "masks_centroid" / f"{name}.png", points=points)
    (tmp_path / "train.txt").write_text("a\r\nb.png\n\nc\n")
    (tmp_path / "empty.txt").write_text("\n")
    return tmp_path


def test_a_folder(root):
    dicts = load_sirst(root, "train.txt")
    assert [record["image_id"] for record in dicts] == ["a", "b", "c"]
    assert dicts[0] == {
        "file_name": str(root / "images" / "a.png"),
        "image_id": "a",
        "height": 20,
        "width": 30,
        "mask_file": str(root / "masks" / "a.png"),
        "points": [[4, 5]],
    }
    assert dicts[1]["points"] == [] and dicts[2]["points"] == [[1, 1], [9, 9]]
    assert load_sirst(root, "train") == dicts and load_sirst(root, "empty") == []


def test_other_names_and_kinds_of_files(root):
    (root / "images").rename(root / "ir")
    (root / "ir" / "a.png").unlink()
    write(root / "ir" / "a.BMP")
    (root / "masks" / "b.png").unlink()
    dicts = load_sirst(root, "train", images="ir", points="")
    assert dicts[0]["file_name"].endswith("a.BMP") and "points" not in dicts[0]
    assert "mask_file" in dicts[0] and "mask_file" not in dicts[1]
    assert all("mask_file" not in record for record in load_sirst(root, "train", images="ir", masks=""))


def test_points_from_a_csv(root):
    (root / "p.csv").write_text("image,x,y\na,1,2\nb,,\nc,3,4\n")
    assert [record["points"] for record in load_sirst(root, "train", points="p.csv")] == [[[1, 2]], [], [[3, 4]]]


def test_characteristics(root):
    assert "characteristic" not in load_sirst(root, "train")[0]
    (root / "characteristics.csv").write_text("image,characteristic\na,faint\nc.png,salient\n")
    assert [record.get("characteristic") for record in load_sirst(root, "train")] == ["faint", None, "salient"]
    with pytest.raises(FileNotFoundError, match=r"other\.csv do not exist"):
        load_sirst(root, "train", characteristics="other.csv")
    (root / "characteristics.csv").write_text("name\n")
    with pytest.raises(ValueError, match=r"characteristics\.csv has the columns"):
        load_sirst(root, "train")


@pytest.mark.parametrize("folder, what", [("masks", "mask"), ("masks_centroid", "points")])
def test_another_size_is_an_error_or_skipped(root, folder, what, caplog):
    write(root / folder / "b.png", size=(21, 30))
    with pytest.raises(ValueError, match=rf"{what} .*b\.png (is|are) 30x21 pixels but its image .*b.* is 30x20"):
        load_sirst(root, "train")
    with caplog.at_level(logging.WARNING):
        dicts = load_sirst(root, "train", on_mismatch="skip")
    assert [record["image_id"] for record in dicts] == ["a", "c"]
    assert len(caplog.records) == 1 and "b.png" in caplog.text and "skipped" in caplog.text


def test_an_image_without_points_in_a_split(root):
    (root / "masks_centroid" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"train\.txt names image 'b', which has no points in .*masks_centroid"):
        load_sirst(root, "train")


def test_a_split_that_names_a_missing_image(root):
    (root / "images" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.txt names image 'c', which is not in .*images"):
        load_sirst(root, "train")


def test_a_split_that_names_an_image_twice(root):
    (root / "train.txt").write_text("a\na.png\n")
    with pytest.raises(ValueError, match=r"train\.txt names image 'a' twice"):
        load_sirst(root, "train")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "none"}, "split file .*none does not exist"),
        ({"images": "none"}, "none is not a folder"),
        ({"masks": "none"}, "none is not a folder"),
        ({"points": "none"}, "none' do not exist"),
        ({"on_mismatch": "resize"}, "on_mismatch must be"),
    ],
)
def test_what_does_not_exist_is_named(root, options, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load_sirst(**{"root": root, "split": "train", **options})


def test_an_image_whose_header_is_broken_is_named(root):
    (root / "images" / "c.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"c\.png cannot be read as an image"):
        load_sirst(root, "train")


def test_registering(root):
    name = f"istd_test_{root.name}"
    register_sirst(name, root, "train", points="")
    assert len(DatasetCatalog.get(name)) == 3
    assert MetadataCatalog.get(name).evaluator_type == "istd"
    assert resolve_datasets([name]) == (name,)


def test_names_by_path(root):
    plain, with_options = f"sirst:{root}:train.txt", f"sirst:{root}:train:points=,masks="
    assert resolve_datasets([plain, with_options, plain]) == (plain, with_options, plain)
    assert DatasetCatalog.get(plain)[0]["points"] == [[4, 5]]
    assert set(DatasetCatalog.get(with_options)[0]) == {"file_name", "image_id", "height", "width"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unheard_of", "'unheard_of' is not registered; name a registered one, or one by its path: 'sirst:ROOT:SPLIT"),
        ("sirst:", "'sirst:' is not registered"),
        ("sirst:/data", "'sirst:/data' is not registered"),
        ("sirst::train.txt", "'sirst::train.txt' is not registered"),
        ("sirst:/data:train.txt:color=red", "has no option color; the options are points, images, masks"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ValueError, match=message):
        resolve_datasets([name])


def test_a_relative_root_is_looked_up_under_detectron2_datasets(root, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    name = f"sirst:{root.name}:train.txt"
    resolve_datasets([name])
    assert DatasetCatalog.get(name)[0]["file_name"] == str(root / "images" / "a.png")


@pytest.mark.parametrize("key", ["TRAIN", "VALIDATION", "TEST"])
def test_the_key_of_a_wrong_name_is_named(key):
    cfg = get_cfg()
    add_istd_config(cfg)
    cfg.DATASETS[key] = ("sirst:not/there:train.txt",)
    with pytest.raises(FileNotFoundError, match=rf"DATASETS\.{key}: data set 'sirst:not/there:train.txt'"):
        resolve_config_datasets(cfg)


def test_the_real_splits(shared):
    root = shared / "data" / "sirst"
    train, val = load_sirst(root, "train"), load_sirst(root, "val", points="masks_coarse")
    assert (len(train), len(val)) == (170, 43)
    assert sum(len(record["points"]) for record in train) == 214
    assert sum(len(record["points"]) for record in val) == 56
    with pytest.raises(ValueError, match=r"Misc_111\.png is 592x400 pixels but its image .*Misc_111\.png is 325x220"):
        load_sirst(root, "test.txt")
    assert len(load_sirst(root, "test.txt", on_mismatch="skip")) == 153


def test_real_backgrounds_have_no_masks(shared):
    root = shared / "data" / "sirst_v2_extra"
    dicts = load_sirst(root, "backgrounds", images="backgrounds", masks="", points="")
    assert len(dicts) == 12 and {(record["height"], record["width"]) for record in dicts} >= {(1080, 1918)}
