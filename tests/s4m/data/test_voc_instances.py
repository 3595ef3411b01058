import json
import shutil

import numpy as np
import pycocotools.mask as mask_util
import pytest
import scipy.io
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from s4m.data.coco import load_coco, validate_coco
from s4m.data.datasets_by_path import resolve_datasets
from s4m.data.splits import write_splits
from s4m.data.voc_instances import (
    VOC_CLASSES,
    prepare_voc,
    read_names,
    read_sbd,
    read_voc,
    to_coco,
    train_aug_names,
)


@pytest.fixture(scope="module")
def prepared(voc_tree, tmp_path_factory):
    return prepare_voc(voc_tree.voc, tmp_path_factory.mktemp("json"), sbd=voc_tree.sbd, unlabeled=["more"])


@pytest.fixture
def pair(tmp_path):
    """Function (ids, classes) that writes the two PNGs of the image `one`; returns the folder."""
    for folder in ("SegmentationObject", "SegmentationClass"):
        (tmp_path / folder).mkdir()

    def write(ids, classes):
        for folder, values in (("SegmentationObject", ids), ("SegmentationClass", classes)):
            Image.fromarray(np.asarray(values, np.uint8)).save(tmp_path / folder / "one.png")
        return tmp_path

    return write


def content(path):
    return json.loads(path.read_text())


def test_voc_objects_have_their_class_and_ids_with_gaps(voc_tree):
    found = read_voc(voc_tree.voc, "2007_000001")
    assert found.classes == {1: 15, 4: 7}
    expected = np.zeros((40, 48), int)
    expected[3:19, 4:18], expected[11:37, 23:45] = 1, 4
    assert (found.ids == expected).all()
    border = np.zeros((40, 48), bool)
    border[2:20, 3:19], border[10:38, 22:46] = True, True
    assert (found.void == border & (expected == 0)).all()


def test_voc_void_is_what_either_png_leaves_open(pair):
    ids = [[0, 0, 0, 255], [3, 3, 3, 3]]
    classes = [[0, 9, 255, 255], [9, 9, 9, 255]]
    found = read_voc(pair(ids, classes), "one")
    assert found.void.tolist() == [[False, True, True, True], [False, False, False, True]]
    assert found.ids.tolist() == [[0, 0, 0, 0], [3, 3, 3, 0]] and found.classes == {3: 9}


def test_voc_class_is_that_of_most_pixels(pair):
    assert read_voc(pair([[2, 2, 2, 2, 2, 2]], [[0, 0, 0, 5, 8, 8]]), "one").classes == {2: 8}


def test_voc_object_that_is_void_is_none(pair):
    found = read_voc(pair([[1, 1, 2]], [[255, 255, 4]]), "one")
    assert found.classes == {2: 4} and found.void.tolist() == [[True, True, False]]


@pytest.mark.parametrize("kind", [0, 21])
def test_voc_object_without_a_class_is_refused(pair, kind):
    with pytest.raises(ValueError, match=r"one\.png': object 7 has no class from 1 to 20"):
        read_voc(pair([[7, 0]], [[kind, 0]]), "one")


def test_voc_pngs_that_do_not_fit_are_refused(pair, tmp_path):
    folder = pair([[1, 0]], [[1], [0]])
    with pytest.raises(ValueError, match=r"is \(1, 2\), but its SegmentationClass is \(2, 1\)"):
        read_voc(folder, "one")
    Image.new("RGB", (2, 1)).save(tmp_path / "SegmentationObject" / "one.png")
    with pytest.raises(ValueError, match="mode RGB: VOC's annotations are palette PNGs"):
        read_voc(folder, "one")
    (tmp_path / "SegmentationObject" / "one.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be read"):
        read_voc(folder, "one")
    with pytest.raises(FileNotFoundError, match=r"two\.png' does not exist"):
        read_voc(folder, "two")


def test_sbd_objects(voc_tree):
    found = read_sbd(voc_tree.sbd, "2008_000003")
    assert found.classes == {1: 6, 2: 12} and not found.void.any()
    assert (found.ids == 1).sum() == 400 and (found.ids == 2).sum() == 12 * 36


@pytest.mark.parametrize(("ids", "categories", "classes"), [([[0, 1]], [3], {1: 3}), ([[0, 0]], [], {})])
def test_sbd_of_one_object_and_of_none(tmp_path, ids, categories, classes):
    (tmp_path / "inst").mkdir()
    truth = {"Segmentation": np.array(ids, np.uint8), "Categories": np.array(categories, np.uint8)[:, None]}
    scipy.io.savemat(tmp_path / "inst" / "one.mat", {"GTinst": truth})
    assert read_sbd(tmp_path, "one").classes == classes


def test_sbd_files_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "inst").mkdir()
    path = tmp_path / "inst" / "one.mat"
    for categories in ([21], []):
        scipy.io.savemat(path, {"GTinst": {"Segmentation": np.ones((2, 2), np.uint8), "Categories": categories}})
        with pytest.raises(ValueError, match=r"one\.mat': object 1 has no class from 1 to 20"):
            read_sbd(tmp_path, "one")
    scipy.io.savemat(path, {"GTcls": {"Segmentation": np.ones((2, 2), np.uint8)}})
    with pytest.raises(ValueError, match="not an SBD file with GTinst"):
        read_sbd(tmp_path, "one")
    path.write_bytes(b"no mat")
    with pytest.raises(ValueError, match="not an SBD file with GTinst"):
        read_sbd(tmp_path, "one")
    with pytest.raises(FileNotFoundError, match=r"two\.mat' does not exist"):
        read_sbd(tmp_path, "two")


def test_dataset_dicts_carry_the_void(prepared, voc_tree):
    dicts = load_coco("test_voc_void", str(prepared["train_aug"]), str(voc_tree.voc / "JPEGImages"))
    wanted = {image["id"]: image.get("void") for image in content(prepared["train_aug"])["images"]}
    assert {d["image_id"]: d.get("void") for d in dicts} == wanted
    assert sum("void" in d for d in dicts) == 3


def test_json_holds_masks_boxes_areas_and_void(prepared, voc_tree):
    data = validate_coco(prepared["train"], voc_tree.voc / "JPEGImages")
    assert [image["id"] for image in data["images"]] == [1, 2, 3] and len(data["annotations"]) == 6
    assert [c["name"] for c in data["categories"]] == list(VOC_CLASSES) and data["categories"][14]["id"] == 15
    first, second = data["annotations"][:2]
    assert (first["category_id"], first["bbox"], first["area"], first["object"]) == (15, [4, 3, 14, 16], 14 * 16, 1)
    assert (second["category_id"], second["bbox"], second["area"], second["object"]) == (
        7,
        [23, 11, 22, 26],
        22 * 26,
        4,
    )
    objects = read_voc(voc_tree.voc, "2007_000001")
    assert (mask_util.decode(second["segmentation"]) == (objects.ids == 4)).all()
    assert (mask_util.decode(data["images"][0]["void"]) == objects.void).all()


def test_image_without_objects_stays(prepared):
    data = content(prepared["val"])
    assert [image["file_name"] for image in data["images"]] == ["2007_000004.jpg", "2007_000005.jpg"]
    assert "void" in data["images"][0] and "void" not in data["images"][1]
    assert {a["image_id"] for a in data["annotations"]} == {1}


def test_unlabeled_list_needs_no_masks(prepared):
    assert prepared["more"].name == "image_info_more.json"
    data = content(prepared["more"])
    assert len(data["images"]) == 2 and data["annotations"] == [] and len(data["categories"]) == 20


def test_train_aug_is_all_but_val_with_vocs_own_annotations(prepared, voc_tree):
    names = train_aug_names(voc_tree.voc, voc_tree.sbd)
    assert names == [f"2007_00000{i}" for i in (1, 2, 3)] + [f"2008_00000{i}" for i in range(1, 6)]
    data = content(prepared["train_aug"])
    assert [image["file_name"] for image in data["images"]] == [f"{name}.jpg" for name in names]
    kinds = {i: [a["category_id"] for a in data["annotations"] if a["image_id"] == i] for i in (1, 4)}
    assert kinds == {1: [15, 7], 4: [6, 12]}  # 2007_000001 is in SBD as well
    assert ["void" in image for image in data["images"]] == [True] * 3 + [False] * 5


def test_list_that_shares_images_with_val_is_refused(voc_tree, tmp_path):
    for options in ({"lists": ["trainval"]}, {"unlabeled": ["trainval"]}):
        with pytest.raises(ValueError, match=r"list 'trainval' shares 2 image\(s\) .* 'val', such as '2007_000004'"):
            prepare_voc(voc_tree.voc, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_split_of_sbd_that_leaks_into_val_is_refused(voc_tree, prepared, tmp_path):
    whole = to_coco(
        read_names(voc_tree.sbd / "val.txt"), voc_tree.voc / "JPEGImages", lambda n: read_sbd(voc_tree.sbd, n)
    )
    leaky = tmp_path / "leaky.json"
    leaky.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"shares 1 image\(s\) with the validation set .*2007_000004"):
        write_splits(leaky, [50], 1, 0, tmp_path, val_jsons=[prepared["val"]])


def test_image_that_is_absent_or_of_another_size_is_named(voc_tree, tmp_path):
    voc = tmp_path / "VOC2012"
    shutil.copytree(voc_tree.voc, voc)
    Image.new("RGB", (9, 9)).save(voc / "JPEGImages" / "2007_000002.jpg")
    with pytest.raises(ValueError, match=r"2007_000002\.jpg' is \(9, 9\), but its annotation is \(40, 48\)"):
        prepare_voc(voc)
    (voc / "JPEGImages" / "2007_000002.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2007_000002\.jpg' is not an image"):
        prepare_voc(voc)
    (voc / "JPEGImages" / "2007_000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"2007_000002\.jpg' does not exist"):
        prepare_voc(voc)
    assert not (voc / "coco").exists()


def test_lists_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a 1\n\nb -1\n")
    assert read_names(path) == ["a", "b"]
    for text, problem in (("\n", "names no image"), ("a\na\n", "names an image twice")):
        path.write_text(text)
        with pytest.raises(ValueError, match=problem):
            read_names(path)
    with pytest.raises(FileNotFoundError, match="image list '.*absent' does not exist"):
        read_names(tmp_path / "absent")


def test_set_named_by_path_is_evaluated_as_voc(prepared, voc_tree):
    name = f"voc:{prepared['val']}:{voc_tree.voc}/JPEGImages"
    resolve_datasets([name])
    resolve_datasets([name])
    dicts, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    assert [a["category_id"] for a in dicts[0]["annotations"]] == [14, 6]
    assert metadata.evaluator_type == "voc_instances" and metadata.thing_classes == list(VOC_CLASSES)
    assert metadata.dirname == str(voc_tree.voc)


def test_real_voc(shared, tmp_path):
    voc = shared / "data" / "voc_mini" / "VOCdevkit" / "VOC2012"
    written = prepare_voc(voc, tmp_path, unlabeled=["unlabeled"])
    train, val = (validate_coco(written[key], voc / "JPEGImages") for key in ("train", "val"))
    assert [len(d[k]) for d in (train, val) for k in ("images", "annotations")] == [23, 72, 24, 55]
    gapped = next(image for image in train["images"] if image["file_name"] == "2011_000006.jpg")
    assert [a["object"] for a in train["annotations"] if a["image_id"] == gapped["id"]] == [1, 2, 3, 4, 5, 7]
    assert len(content(written["unlabeled"])["images"]) == 200
