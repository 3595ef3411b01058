"""The check of data sets, on small sets of synthetic shapes."""

import json
import logging
import os
import shutil

import cv2
import numpy as np
import pytest
import tifffile
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from d2kit.faults import ERROR, WARNING
from s4m.cli import main
from s4m.config import add_s4m_config
from s4m.data import header_cache
from s4m.data.check import check_config, check_sets
from s4m.data.classes import class_indices, with_classes
from s4m.data.datasets_by_path import resolve_config_datasets, resolve_datasets
from s4m.data.header_cache import read_headers
from s4m.data.shapes import write_shapes
from s4m.data.two_stream import build_two_stream_loader, load_labeled
from s4m.evaluation.build import WithClasses, build_evaluator
from s4m.evaluation.coco import read_truth


@pytest.fixture
def folder(tmp_path):
    """A set of six images of shapes, train.json with val.json beside images/."""
    write_shapes(tmp_path, 6, seed=0, image_size=(48, 48), classes=("circle", "square", "star"))
    data = json.loads((tmp_path / "annotations.json").read_text())
    for name, chosen in (("train", data["images"][:4]), ("val", data["images"][4:])):
        ids = {image["id"] for image in chosen}
        annotations = [a for a in data["annotations"] if a["image_id"] in ids]
        (tmp_path / f"{name}.json").write_text(json.dumps(data | {"images": chosen, "annotations": annotations}))
    return tmp_path


def edit(path, function):
    data = json.loads(path.read_text())
    function(data)
    path.write_text(json.dumps(data))


def check_json(folder, name):
    """The faults of one json beside images/."""
    cfg = get_cfg()
    add_s4m_config(cfg)
    name = f"coco:{folder}/{name}:{folder}/images"
    resolve_datasets([name])
    [faults] = check_sets([name], cfg)
    return faults


@pytest.fixture
def config(folder):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.DATASETS.TRAIN = (f"coco:{folder}/train.json:{folder}/images",)
    cfg.DATASETS.TEST = (f"coco:{folder}/val.json:{folder}/images",)
    cfg.SOLVER.IMS_PER_BATCH = cfg.S4M.UNLABELED_BATCH = 1
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def sentences(cfg):
    resolve_config_datasets(cfg)
    return [str(fault) for faults in check_config(cfg) for level in (ERROR, WARNING) for fault in faults.of(level)]


def test_sound_sets_have_no_fault(config):
    assert sentences(config) == []


def test_the_command_tells_writes_and_returns_a_status(folder, capsys):
    def spoil(data):
        data["annotations"][0]["bbox"] = [0, 0, 0, 0]
        for annotation in data["annotations"]:
            del annotation["area"], annotation["iscrowd"]

    edit(folder / "train.json", spoil)
    arguments = ["check", f"coco:{folder}/train.json:{folder}/images"]
    assert main([*arguments, "--write", f"{folder}/fixed.json"]) == 0
    assert "  repaired: boxes that are not those of their masks, recomputed (1)\n" in capsys.readouterr().out
    fixed, original = (json.loads((folder / name).read_text()) for name in ("fixed.json", "annotations.json"))
    count = len(fixed["annotations"])
    assert fixed["annotations"] == [a | {"iscrowd": 0} for a in original["annotations"][:count]]
    assert main(["check", f"coco:{folder}/fixed.json:{folder}/images"]) == 0
    assert capsys.readouterr().out == f"'{folder}/fixed.json':\n  no fault\n0 errors, 0 repaired, 0 warnings\n"
    edit(folder / "train.json", lambda data: data["annotations"][0].update(category_id=9))
    assert main([*arguments, "--write", f"{folder}/none.json"]) == 1
    assert "error: annotations of unknown categories (1)" in capsys.readouterr().out
    assert not (folder / "none.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["INPUT.RANGE", "type"], ["--config-file", "s4m/own_data_stage1.yaml", "--write", "c.json"]],
)
def test_arguments_that_do_not_go_together(arguments):
    with pytest.raises(SystemExit) as end:
        main(["check", *arguments])
    assert end.value.code == 2


def test_crowds_become_objects_by_a_key(config, folder):
    for name in ("train", "val"):
        edit(folder / f"{name}.json", lambda data: [a.update(iscrowd=1) for a in data["annotations"]])
    assert len([text for text in sentences(config) if "annotations are iscrowd 1" in text]) == 2
    config.INPUT.CROWDS_AS_OBJECTS = True
    assert sentences(config) == []
    batch = next(iter(build_two_stream_loader(config)))
    assert len(batch["labeled"][0]["instances"]) > 0


def test_labeled_images_that_cannot_be_read_stop(config, folder):
    (folder / "images" / "000002.png").write_bytes(b"")
    assert ["empty file" in text for text in sentences(config)] == [True]
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN: .*000002.png' is an empty file"):
        build_two_stream_loader(config)


def test_test_sets_are_checked_before_training(config, folder):
    cv2.imwrite(str(folder / "images" / "000006.png"), cv2.imread(str(folder / "images" / "000006.png"))[:40])
    with pytest.raises(ValueError, match=r"DATASETS.TEST: .*000006.png' is 48x40, but its json says 48x48"):
        build_two_stream_loader(config)


def test_copies_between_the_sets_are_told(config, folder, caplog):
    (folder / "more").mkdir()
    for number in (1, 5, 6):
        shutil.copy(folder / "images" / f"00000{number}.png", folder / "more" / f"copy{number}.png")
    config.DATASETS.UNLABELED = (f"folder:{folder}/more",)
    told = sentences(config)
    assert [text.split(",")[0] for text in told] == [
        "1 unlabeled image(s) are labeled images under another name",
        "2 unlabeled image(s) are images of DATASETS.TEST",
    ]
    with caplog.at_level(logging.WARNING):
        build_two_stream_loader(config)
    assert [record.getMessage() for record in caplog.records] == told


def test_labeled_sets_of_another_order_train_together(config, folder):
    names = ["circle", "square", "star"]

    def reorder(data):
        data["categories"] = [{"id": 7 - i, "name": name} for i, name in enumerate(names)]
        for annotation in data["annotations"]:
            annotation["category_id"] = 8 - annotation["category_id"]

    before = load_labeled(sets(config))
    edit(folder / "val.json", reorder)
    after = load_labeled(sets(config))
    assert [[a["category_id"] for a in d["annotations"]] for d in before] == [
        [a["category_id"] for a in d["annotations"]] for d in after
    ]


def sets(cfg):
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)
    resolve_config_datasets(cfg)
    return (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)


def test_a_class_that_training_lacks_is_told_and_does_not_count(config, folder):
    def forget_stars(data):
        data["annotations"] = [a for a in data["annotations"] if a["category_id"] != 3]
        data["categories"] = data["categories"][:2]

    edit(folder / "train.json", forget_stars)
    [text] = sentences(config)
    assert "classes that training lacks" in text and "'star'" in text
    truth = read_truth(config, config.DATASETS.TEST[0])
    kept = {annotation["category_id"] for annotation in truth.dataset["annotations"]}
    assert kept and 3 not in kept and len(truth.dataset["categories"]) == 3


def test_a_description_chooses_classes_and_their_order(config, folder):
    (folder / "val.yaml").write_text("{json: val.json, images: images, classes: [star, circle]}")
    name = f"s4m:{folder}/val.yaml"
    config.DATASETS.TRAIN = config.DATASETS.TEST = (name,)
    resolve_config_datasets(config)
    original = json.loads((folder / "val.json").read_text())
    counts = [sum(a["category_id"] == number for a in original["annotations"]) for number in (3, 1)]
    given = [a["category_id"] for record in DatasetCatalog.get(name) for a in record["annotations"]]
    assert MetadataCatalog.get(name).thing_classes == ["star", "circle"]
    assert [given.count(index) for index in range(2)] == counts
    truth = read_truth(config, name)
    assert [
        sum(a["category_id"] == c["id"] for a in truth.dataset["annotations"]) for c in truth.dataset["categories"]
    ] == counts
    (folder / "other.yaml").write_text("{json: val.json, images: images, classes: [star, ring]}")
    config.DATASETS.TRAIN = (f"s4m:{folder}/other.yaml",)
    assert any("holds no category 'ring'" in text for text in sentences(config))


def test_faults_are_told_once_by_the_catalog_and_by_every_training(config, folder, caplog):
    edit(folder / "train.json", lambda data: data["annotations"][0].update(bbox=None))
    for name in sets(config):
        DatasetCatalog.get(name)
        DatasetCatalog.get(name)
    assert caplog.text.count("boxes that are not") == 1
    build_two_stream_loader(config)
    assert caplog.text.count("boxes that are not") == 2


def test_classes_without_a_common_name_keep_their_order(config, folder):
    edit(folder / "val.json", lambda data: [c.update(name=f"une {c['name']}") for c in data["categories"]])
    [text] = sentences(config)
    assert "none of its classes, such as 'une circle'" in text and "in their order" in text


@pytest.mark.parametrize(
    ("source", "target", "indices"),
    [
        ("abc", "abc", [0, 1, 2]),
        ("abc", "cab", [1, 2, 0]),
        ("abc", "ca", [1, -1, 0]),
        ("ab", "", [0, 1]),
        ("ab", "xy", [0, 1]),
    ],
)
def test_class_indices(source, target, indices):
    assert class_indices(list(source), list(target)) == indices


def test_objects_get_the_indices_of_other_classes():
    records = [{"image_id": 1, "annotations": [{"category_id": i} for i in range(3)]}, {"image_id": 2}]
    assert with_classes(records, list("abc"), list("ca")) == [
        {"image_id": 1, "annotations": [{"category_id": 1}, {"category_id": 0}]},
        {"image_id": 2},
    ]


class Recorder:
    def process(self, inputs, outputs):
        self.classes = [output["instances"].pred_classes.tolist() for output in outputs]


def test_predictions_get_the_indices_of_the_set():
    recorder = Recorder()
    predictions = Instances((4, 4), pred_classes=torch.tensor([0, 1, 2, 2]))
    WithClasses(recorder, [1, -1, 0]).process([{}], [{"instances": predictions}])
    assert recorder.classes == [[1, 0, 0]] and predictions.pred_classes.tolist() == [0, 1, 2, 2]


def test_headers_of_large_folders_are_kept_until_a_file_changes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(header_cache, "_LARGE", 3)
    paths = [str(folder / "images" / f"00000{number}.png") for number in range(1, 7)]
    first = read_headers(paths)
    counted = []
    read = header_cache.read_header
    monkeypatch.setattr(header_cache, "read_header", lambda path: counted.append(path) or read(path))
    assert read_headers(paths) == first and counted == []
    cv2.imwrite(paths[2], cv2.imread(paths[2])[:40])
    assert read_headers(paths)[paths[2]].size == (40, 48) and counted == [paths[2]]
    os.utime(paths[3], ns=(1, 1))
    assert read_headers(paths)[paths[3]] == first[paths[3]] and counted == paths[2:4]


def test_files_of_several_pages_are_told_once_a_set_with_a_count(folder):
    path = folder / "images" / "000001.png"
    pages = [Image.open(path).convert("RGB") for _ in range(3)]
    for suffix, options in ((".tif", {}), (".gif", {}), (".webp", {"lossless": True}), (".png", {})):
        turned = [page.rotate(90 * number) for number, page in enumerate(pages)]
        turned[0].save(path.with_suffix(suffix), save_all=True, append_images=turned[1:], **options)
    deep = np.zeros((2, 48, 48, 3), np.uint16)
    tifffile.imwrite(folder / "images" / "000002.tif", deep, photometric="rgb")
    names = ["000001.tif", "000001.gif", "000001.webp", "000001.png", "000002.tif"]
    data = {"images": [{"id": i, "file_name": n, "height": 48, "width": 48} for i, n in enumerate(names, 1)]}
    (folder / "pages.json").write_text(json.dumps(data))
    faults = check_json(folder, "pages.json")
    [fault] = [fault for fault in faults.of(WARNING) if "several pages" in fault.headline]
    assert fault.count == 5 and fault.examples[0].endswith("000001.tif' of 3")


@pytest.mark.parametrize(
    ("orientation", "size", "keeps"), [(6, (48, 48), True), (3, (48, 40), True), (6, (48, 40), False)]
)
def test_an_orientation_that_keeps_the_size_says_how_to_tell_the_frame(folder, orientation, size, keeps):
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", size).save(folder / "images" / "a.jpg", exif=exif)
    width, height = size if orientation == 3 else size[::-1]
    data = {"images": [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}]}
    (folder / "a.json").write_text(json.dumps(data))
    [fault] = check_json(folder, "a.json").of(WARNING)
    assert "EXIF" in fault.headline and ("draw the masks" in fault.headline) == keeps


def test_the_number_of_pages_is_kept_between_checks(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(header_cache, "_LARGE", 1)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    path = folder / "images" / "a.tif"
    Image.new("L", (8, 8)).save(path, save_all=True, append_images=[Image.new("L", (8, 8))])
    assert [read_headers([str(path)])[str(path)].frames for _ in range(2)] == [2, 2]


@pytest.mark.parametrize("kind", ["images alone", "no annotation", "a folder"])
def test_a_test_set_without_annotations_is_refused_before_training(config, folder, kind):
    edit(folder / "val.json", lambda data: data.update(annotations=[]) if "no" in kind else data.pop("annotations"))
    if kind == "a folder":
        config.DATASETS.TEST = (f"folder:{folder}/images",)
    with pytest.raises(ValueError, match=r"DATASETS.TEST: .* has no annotation to evaluate by"):
        build_two_stream_loader(config)
    if kind == "a folder":
        with pytest.raises(ValueError, match=r"DATASETS.TEST: 'folder:.*' has no annotation to evaluate by"):
            build_evaluator(config, config.DATASETS.TEST[0])
    resolve_config_datasets(config)
    assert ["sets for evaluation without annotations"] == [
        fault.headline for faults in check_config(config) for fault in faults.of(ERROR)
    ]


def test_a_torn_image_of_a_folder_is_a_warning_unless_the_key_stops(config, folder):
    (folder / "images" / "torn.png").write_bytes((folder / "images/000001.png").read_bytes()[:200])
    name = f"folder:{folder}/images"
    resolve_datasets([name])
    assert [fault.count for fault in check_sets([name], config)[0].of(WARNING)] == [1]
    config.INPUT.ON_BAD_IMAGE = "stop"
    assert [fault.count for fault in check_sets([name], config)[0].of(ERROR)] == [1]
