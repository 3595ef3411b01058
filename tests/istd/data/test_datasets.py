import inspect
import json
import logging
import os
import shutil

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2kit.faults import Faults
from istd import add_istd_config
from istd.data.datasets import (
    KEYS,
    OPTIONS,
    give_distinct_ids,
    load_sirst,
    register_sirst,
    resolve_config_datasets,
    resolve_datasets,
)
from istd.data.sirst_folder import SirstFolder


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


def move(root, name, path):
    """Give an image, its mask and its points another name."""
    for folder in ("images", "masks", "masks_centroid"):
        target = root / folder / f"{path}.png"
        target.parent.mkdir(exist_ok=True)
        (root / folder / f"{name}.png").rename(target)


@pytest.fixture
def sequences(root):
    move(root, "a", "s1/0000")
    move(root, "b", "s2/0000")
    move(root, "c", "s2/0001")
    (root / "train.txt").write_text("s1/0000\n./s2/0000.png\ns2\\0001.png\n")
    return root


def test_sequences_keep_their_folders(sequences):
    dicts = load_sirst(sequences, "train")
    assert [record["image_id"] for record in dicts] == ["s1/0000", "s2/0000", "s2/0001"]
    assert [len(record["points"]) for record in dicts] == [1, 0, 2]
    assert all(record["mask_file"].endswith(f"masks/{record['image_id']}.png") for record in dicts)


def test_a_mask_or_a_row_without_folder_serves_only_a_name_that_is_the_only_one(sequences):
    for folder in ("masks", "masks_centroid"):
        (sequences / folder / "s2" / "0001.png").rename(sequences / folder / "0001.png")
        (sequences / folder / "s2" / "0000.png").rename(sequences / folder / "0000.png")
    with pytest.raises(ValueError, match=r"names image 's2/0000', which has no points"):
        load_sirst(sequences, "train")
    (sequences / "p.csv").write_text("image,x,y\n/data/s1/0000.png,1,2\ns2/0000,,\n0001,3,4\n")
    dicts = load_sirst(sequences, "train", points="p.csv")
    assert [record["points"] for record in dicts] == [[[1, 2]], [], [[3, 4]]]
    assert ["mask_file" in record for record in dicts] == [True, False, True]


def test_lines_that_begin_with_the_folder_of_images(root):
    (root / "train.txt").write_text("images/a.png\nimages/c.png\n")
    assert [record["image_id"] for record in load_sirst(root, "train")] == ["a", "c"]


def test_a_split_in_utf_16_and_names_with_umlauts(root):
    move(root, "a", "A\u0308")  # decomposed, as macOS writes names
    (root / "train.txt").write_bytes("\u00c4.png\r\nb\r\n".encode("utf-16"))
    dicts = load_sirst(root, "train")
    assert [record["image_id"] for record in dicts] == ["\u00c4", "b"] and "mask_file" in dicts[0]


@pytest.mark.parametrize("line", ["../images/a.png", "/etc/a.png"])
def test_a_line_that_leads_out_of_the_folder_is_refused(root, line):
    (root / "train.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"train\.txt names image '.*', which leads out of the folder"):
        load_sirst(root, "train")


def test_masks_with_other_names_than_the_images_are_refused(root):
    for path in (root / "masks").iterdir():
        path.rename(path.with_name(f"truth-{path.name}"))
    with pytest.raises(ValueError, match=r"has a mask in .*masks|masks has no mask for any image"):
        load_sirst(root, "train")


def test_masks_of_other_splits_alone_are_fine(root):
    (root / "val.txt").write_text("a\n")
    (root / "masks" / "a.png").unlink()
    assert "mask_file" not in load_sirst(root, "val")[0]


def test_points_that_do_not_exist_name_the_command_that_makes_them(root):
    with pytest.raises(FileNotFoundError, match=r"points '.*none' do not exist: `istd points .*masks --output .*none`"):
        load_sirst(root, "train", points="none")


def test_fractions_are_refused_without_their_unit(root):
    (root / "p.csv").write_text("image,x,y\na,0.5,0.25\nb,,\nc,0.1,0.9\n")
    with pytest.raises(ValueError, match=r"p\.csv: all coordinates lie within 0\.\.1"):
        load_sirst(root, "train", points="p.csv")
    name = f"sirst:{root}:train.txt:points=p.csv,unit=fraction"
    resolve_datasets([name])
    assert [record["points"] for record in DatasetCatalog.get(name)] == [[[15, 5]], [], [[3, 18]]]


@pytest.fixture
def two_roots(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("more") / "other"
    shutil.copytree(root, other)
    write(other / "images" / "a.png", points=[(2, 2)])
    return tuple(f"sirst:{folder}:train.txt" for folder in (root, other))


def test_equal_names_of_two_sets_get_ids_of_their_own(two_roots, root):
    resolve_datasets(two_roots)
    sets = [(name, DatasetCatalog.get(name)) for name in two_roots]
    first, second = give_distinct_ids(sets)
    assert [record["image_id"] for record in (*first, *second)] == [
        *(f"{root.name}/{name}" for name in "abc"),
        *(f"other/{name}" for name in "abc"),
    ]
    assert give_distinct_ids(sets[:1]) == [sets[0][1]]


def test_one_image_in_two_sets_keeps_its_id(root):
    names = (f"sirst:{root}:train.txt", f"sirst:{root}:train")
    resolve_datasets(names)
    first, second = give_distinct_ids([(name, DatasetCatalog.get(name)) for name in names])
    assert first == second and first[0]["image_id"] == "a"


def test_a_default_that_stays_beside_own_data_is_named(root, monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    cfg = get_cfg()
    add_istd_config(cfg)
    cfg.DATASETS.TRAIN = (f"sirst:{root}:train.txt",)
    cfg.DATASETS.VALIDATION = ("sirst:datasets/sirst:val.txt",)
    with pytest.raises(FileNotFoundError, match=r"^DATASETS\.VALIDATION has its default.*while DATASETS\.TRAIN names"):
        resolve_config_datasets(cfg)
    (tmp_path / "datasets" / "sirst").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        resolve_config_datasets(cfg)
    assert "DATASETS.VALIDATION has its default" in caplog.text


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


@pytest.mark.parametrize("options", ["", ":", ":points=,masks="])
def test_a_root_with_colons(root, options, tmp_path_factory):
    folder = shutil.copytree(root, tmp_path_factory.mktemp("colons") / "run_12:30:00")
    name = f"sirst:{folder}:train.txt{options}"
    resolve_datasets([name])
    assert len(DatasetCatalog.get(name)) == len(load_sirst(folder, "train"))


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


@pytest.fixture
def elsewhere(root, monkeypatch):
    """Move all files of the folder to names that no default has, and to the home folder."""
    monkeypatch.setenv("HOME", str(root))
    for old, new in (("images", "a b: images"), ("masks", "C:/masks"), ("masks_centroid", "dots")):
        (root / new).parent.mkdir(exist_ok=True)
        (root / old).rename(root / new)
    (root / "train.txt").rename(root / "split one.txt")
    (root / "faint.csv").write_text("image,characteristic\na,faint\n")
    (root / "p.csv").write_text("image,x,y\na,0.5,0.5\nb,,\nc,0.25,0.25\n")
    write(root / "C:" / "masks" / "b.png", size=(21, 30))
    return root


ALL_KEYS = {
    "split": "split one",
    "images": "./a b: images",
    "masks": "C:\\masks",
    "points": "~/p.csv",
    "unit": "fraction",
    "characteristics": "faint.csv",
    "on_mismatch": "skip",
}


@pytest.mark.parametrize("name", ["my set.yaml", "a:b/my.YML", "my.json"])
def test_a_file_describes_a_data_set(elsewhere, name, caplog):
    file = elsewhere / name
    file.parent.mkdir(exist_ok=True)
    keys = ALL_KEYS | ({} if file.parent == elsewhere else {"folder": ".."})
    text = json.dumps(keys) if name.endswith("json") else "".join(f"{k}: '{v}'\n" for k, v in keys.items())
    file.write_text(text, encoding="utf-8-sig")
    [registered] = resolve_datasets([f"sirst:{file}"])
    with caplog.at_level(logging.WARNING):
        dicts = DatasetCatalog.get(registered)
    assert [(record["image_id"], record["points"]) for record in dicts] == [("a", [[15, 10]]), ("c", [[7, 5]])]
    assert dicts[0]["characteristic"] == "faint" and "b.png" in caplog.text
    assert os.path.normpath(dicts[0]["file_name"]) == str(elsewhere / "a b: images" / "a.png")
    assert os.path.normpath(dicts[0]["mask_file"]) == str(elsewhere / "C:" / "masks" / "a.png")
    assert MetadataCatalog.get(registered).evaluator_type == "istd"


def test_every_option_of_a_name_is_a_key_of_a_file():
    parameters = inspect.signature(SirstFolder).parameters
    assert set(KEYS) == set(parameters) - {"root"} | {"folder"} == set(OPTIONS) | {"folder", "split"}


def test_a_file_without_options_has_the_defaults_of_a_name(root):
    (root / "my.yaml").write_text("split: train.txt")
    [name] = resolve_datasets([f"sirst:{root}/my.yaml"])
    assert DatasetCatalog.get(name) == load_sirst(root, "train")
    (root / "my.yaml").write_text("split: train\nmasks:\npoints: ''")
    [name] = resolve_datasets([f"sirst:{root}/../{root.name}/my.yaml"])
    assert not {"points", "mask_file"} & set(DatasetCatalog.get(name)[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("images: images", "lacks the key split"),
        ("split: train\njson: a", "unknown key 'json'; known are folder, split, points, images, masks"),
        ("split: nowhere", "split '.*nowhere' does not exist"),
        ("split: train\npoints: p.csv", "points '.*p.csv' does not exist"),
        ("split: train\nmasks: train.txt", "masks 'train.txt' is no folder"),
        ("split: train\nunit: meters", "unit is 'meters', but must be pixels or fraction or percent"),
    ],
)
def test_a_faulty_description_is_one_sentence_that_names_key_and_file(root, content, message):
    (root / "my.yaml").write_text(content)
    cfg = get_cfg()
    add_istd_config(cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.VALIDATION = ()
    cfg.DATASETS.TEST = (f"sirst:{root}/my.yaml",)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"DATASETS\.TEST: '.*my\.yaml'.* {message}") as caught:
        resolve_config_datasets(cfg)
    assert "\n" not in str(caught.value)


def test_a_json_of_points_is_no_file_that_describes_a_data_set(root):
    (root / "p.json").write_text('{"images": [], "annotations": []}')
    resolve_datasets([f"sirst:{root}:empty:points=p.json"])
    with pytest.raises(FileNotFoundError, match="no.yaml does not exist"):
        resolve_datasets([f"sirst:{root}/no.yaml"])


@pytest.mark.parametrize(("name", "read"), [("a.jpg", "stored"), ("a.png", "stored"), ("a.tif", "shown")])
def test_an_exif_orientation_is_told_beside_masks_and_points(root, name, read):
    exif = Image.Exif()
    exif[274] = 3
    (root / "images" / "a.png").unlink()
    Image.new("L", (30, 20)).save(root / "images" / name, exif=exif)
    faults = Faults()
    SirstFolder(root, "train").read(faults)
    [fault] = faults
    assert fault.level == "warning" and f"{name} has the EXIF orientation 3, and is read as it is {read}" in str(fault)
    faults = Faults()
    SirstFolder(root, "train", masks="", points="").read(faults)
    assert not list(faults)
