import copy
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from s4m.data.coco import load_coco, register_coco_json, validate_coco

GOOD = {
    "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 5}],
    "categories": [{"id": 7, "name": "cat"}],
    "annotations": [
        {"id": 11, "image_id": 1, "category_id": 7, "bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 2, 0, 2, 2]]},
        {
            "id": 12,
            "image_id": 1,
            "category_id": 7,
            "bbox": [0, 0, 1, 4],
            "iscrowd": 1,
            "segmentation": {"size": [4, 5], "counts": [0, 4, 16]},
        },
    ],
}


def write(folder, data, name="set.json"):
    path = folder / name
    path.write_text(json.dumps(data))
    return str(path)


def test_good_json_passes_and_is_returned(tmp_path):
    (tmp_path / "a.png").touch()
    assert validate_coco(write(tmp_path, GOOD), tmp_path) == GOOD


def test_images_only_is_fine(tmp_path):
    data = {"images": GOOD["images"]}
    assert validate_coco(write(tmp_path, data)) == data
    (tmp_path / "a.png").touch()
    dicts = load_coco("images_only", write(tmp_path, data), str(tmp_path))
    assert dicts == [{"file_name": str(tmp_path / "a.png"), "height": 4, "width": 5, "image_id": 1}]


def short_parts_beside_a_good_one(data):
    data["annotations"][0]["segmentation"].append([1, 1, 2, 2])


def test_a_short_part_beside_a_good_one_is_fine(tmp_path):
    data = copy.deepcopy(GOOD)
    short_parts_beside_a_good_one(data)
    validate_coco(write(tmp_path, data))


def change(key, value, number=0, part="annotations"):
    def apply(data):
        data[part][number][key] = value

    return apply


def drop(key, number=0, part="annotations"):
    def apply(data):
        del data[part][number][key]

    return apply


CASES = {
    "unknown category": (change("category_id", 99), "annotation 11 has category 99"),
    "unknown image": (change("image_id", 5), "annotation 11 is of image 5"),
    "text": (change("segmentation", "mask"), "annotation 11 has a segmentation that is neither"),
    "rle without size": (change("segmentation", {"counts": "a"}), "annotation 11 has a segmentation that is neither"),
    "rle of another size": (
        change("segmentation", {"size": [5, 4], "counts": [20]}, number=1),
        r"annotation 12 has an RLE of size \[5, 4\]",
    ),
    "rle too short": (
        change("segmentation", {"size": [4, 5], "counts": [3, 4]}, number=1),
        "annotation 12 has an RLE of 7 pixels",
    ),
    "annotation id twice": (change("id", 11, number=1), "annotation id 11 is used twice"),
    "no file name": (drop("file_name", part="images"), "image number 0 has no 'file_name'"),
    "image id twice": (lambda data: data["images"].append(data["images"][0]), "image id 1 is used twice"),
    "no images": (lambda data: data.pop("images"), "holds no list 'images'"),
}


SKIPPED = {
    "no segmentation": drop("segmentation"),
    "empty segmentation": change("segmentation", []),
    "empty polygon": change("segmentation", [[]]),
    "two points": change("segmentation", [[0, 0, 1, 1]]),
    "odd numbers": change("segmentation", [[0, 0, 1, 1, 2, 2, 3]]),
    "no height": change("segmentation", [[0, 1, 2, 1, 3, 1]]),
    "outside the image": change("segmentation", [[6, 0, 8, 0, 8, 2]]),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_an_object_without_a_mask_is_skipped_with_a_count(tmp_path, case, caplog):
    data = copy.deepcopy(GOOD)
    SKIPPED[case](data)
    assert [a["id"] for a in validate_coco(write(tmp_path, data))["annotations"]] == [12]
    assert "set.json': objects " in caplog.text and "skipped: 1, for example annotation 11" in caplog.text


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_one_sentence_that_names_the_json(tmp_path, case):
    fault, message = CASES[case]
    data = copy.deepcopy(GOOD)
    fault(data)
    with pytest.raises(ValueError, match=message) as caught:
        validate_coco(write(tmp_path, data))
    assert "set.json" in str(caught.value) and "\n" not in str(caught.value)


def test_absent_image_and_json_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"set\.json' lists the image '.*a\.png'"):
        validate_coco(write(tmp_path, GOOD), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.json' does not exist"):
        validate_coco(tmp_path / "none.json")


@pytest.mark.parametrize("text", ['{"images": [', "[" * 100_000])
def test_not_json_is_named(tmp_path, text):
    path = tmp_path / "torn.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"torn\.json' is not a JSON file"):
        validate_coco(path)


def test_registration_validates_when_loaded(tmp_path):
    data = copy.deepcopy(GOOD)
    data["annotations"][0]["category_id"] = 3
    (tmp_path / "a.png").touch()
    register_coco_json("test_coco_bad", write(tmp_path, data), tmp_path)
    with pytest.raises(ValueError, match="annotation 11 has category 3"):
        DatasetCatalog.get("test_coco_bad")


def test_registration_is_idempotent_and_guards_the_name(tmp_path):
    (tmp_path / "a.png").touch()
    json_file = write(tmp_path, GOOD)
    for _ in range(2):
        register_coco_json("test_coco_good", json_file, tmp_path)
    with pytest.raises(ValueError, match="'test_coco_good' is already registered"):
        register_coco_json("test_coco_good", json_file, tmp_path / "elsewhere")
    dicts = DatasetCatalog.get("test_coco_good")
    assert [a["category_id"] for a in dicts[0]["annotations"]] == [0, 0]
    metadata = MetadataCatalog.get("test_coco_good")
    assert metadata.evaluator_type == "coco" and metadata.thing_classes == ["cat"]


@pytest.mark.parametrize(
    ("json_file", "images", "count", "objects"),
    [
        ("coco128/annotations/instances_train2017.json", "coco128/train2017", 128, 939),
        ("coco128/annotations/instances_val2017.json", "coco128/val2017", 60, 461),
        ("coco_mini/annotations/instances_val2017.json", "coco_mini/val2017", 93, 888),
        ("dsb2018/annotations/instances_val.json", "dsb2018/val", 84, 3397),
    ],
)
def test_real_sets_are_valid(shared, json_file, images, count, objects):
    dicts = load_coco(f"test_{images}", str(shared / "data" / json_file), str(shared / "data" / images))
    assert len(dicts) == count and sum(len(d["annotations"]) for d in dicts) == objects


def test_real_image_info_is_valid(shared):
    root = shared / "data" / "coco128"
    dicts = load_coco(
        "test_info", str(root / "annotations" / "image_info_unlabeled2017.json"), str(root / "unlabeled2017")
    )
    assert len(dicts) == 28 and "annotations" not in dicts[0]
