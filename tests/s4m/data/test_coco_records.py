"""Ids, flags, areas, sizes, categories and file names as annotation tools write them."""

import json

import pytest

from d2kit.faults import ERROR, REPAIRED, WARNING, Faults
from s4m.data.coco import load_coco, read_classes, validate_coco
from s4m.data.coco_ids import plain_id
from s4m.data.coco_records import tell_crowds


def rewrite(data, part, key, function):
    for record in data[part]:
        if key in record:
            record[key] = function(record[key])


ID_FORMS = {
    "floats": float,
    "text": str,
    "text of floats": lambda value: f"{value}.0",
    "hexadecimal text": lambda value: f"image-{value:x}",
    "zeros before": lambda value: f"{value:06d}",
    "from 0": lambda value: value - 1,
    "negative": lambda value: -value,
    "beyond 64 bits": lambda value: value + 2**70,
}


@pytest.mark.parametrize("form", ID_FORMS)
def test_ids_of_all_records_are_mapped(data, read, form, assert_right):
    change = ID_FORMS[form]
    for part, keys in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["id", "image_id", "category_id"])):
        for key in keys:
            rewrite(data, part, key, change)
    content, faults = read(data)
    assert all(type(r["id"]) is int for part in ("images", "annotations", "categories") for r in content[part])
    headlines = [fault.headline for fault in faults.of(REPAIRED)]
    assert any("ids of annotations" in headline for headline in headlines) or form in (
        "floats",
        "text",
        "text of floats",
    )
    assert_right(content, faults, {"": None} if not headlines else {headlines[0]: faults.of(REPAIRED)[0].count})


@pytest.mark.parametrize("value", [None, "", float("nan"), [1], "absent"])
def test_annotations_without_ids_get_some(data, read, value, assert_right):
    for annotation in data["annotations"][2:]:
        annotation["id"] = value
        if value == "absent":
            del annotation["id"]
    assert_right(*read(data), {"ids of annotations, counted anew": 6})


def test_mixed_types_of_one_id_meet(data, read, assert_right):
    rewrite(data, "annotations", "image_id", str)
    rewrite(data, "annotations", "category_id", float)
    assert_right(*read(data))


@pytest.mark.parametrize(
    ("value", "meaning"),
    [(7, 7), (7.0, 7), ("7", 7), (" 7 ", 7), ("7.0", 7), ("07", "07"), ("a1", "a1"), (0, 0), (1.5, "1.5")],
)
def test_plain_id(value, meaning):
    assert plain_id(value) == meaning
    assert [plain_id(none) for none in (None, "", float("nan"), [], True)] == [None] * 5


@pytest.mark.parametrize("value", [None, "0", 0.0, False, "false", "", [0], float("nan")])
def test_iscrowd_of_another_type_is_0(data, read, value, assert_right):
    rewrite(data, "annotations", "iscrowd", lambda _: value)
    assert_right(*read(data), {"iscrowd that is null or of another type": 6})


@pytest.mark.parametrize("value", ["1", 1.0, True, "True", [1]])
def test_iscrowd_of_another_type_is_1(data, read, value):
    data["annotations"][1]["iscrowd"] = value
    content, faults = read(data)
    assert [annotation["iscrowd"] for annotation in content["annotations"]] == [0, 1, 0, 0, 0, 0]
    assert type(content["annotations"][1]["iscrowd"]) is int and not faults.of(ERROR)


@pytest.mark.parametrize("value", [None, [], "", "none", -5, 0, float("nan"), {"px": 3}, 10**400, 1e11])
def test_areas_that_are_none_are_left_to_the_mask(data, read, value, assert_right):
    rewrite(data, "annotations", "area", lambda _: value)
    content, faults = read(data)
    assert_right(content, faults, {"areas that are no positive number": 6})
    assert not any("area" in annotation for annotation in content["annotations"])


@pytest.mark.parametrize("form", [lambda area: [area], str, lambda area: [str(area)]])
def test_areas_of_another_type_are_read(data, read, form, assert_right):
    rewrite(data, "annotations", "area", form)
    assert_right(*read(data), {"areas of another type": 6})


@pytest.mark.parametrize("form", [float, str, lambda side: f"{side}.0"])
def test_sizes_of_another_type_are_read(data, read, form, assert_right):
    for key in ("height", "width"):
        rewrite(data, "images", key, form)
    content, faults = read(data)
    assert_right(content, faults, {"sizes of images": 4})
    assert [type(image[key]) for image in content["images"] for key in ("height", "width")] == [int] * 4


CATEGORY_FAULTS = {
    "one id": (
        [{"id": 1, "name": "cat"}, {"id": 1.0, "name": "dog"}],
        "two categories have the id 1.0: 'cat' and 'dog'",
    ),
    "one name": ([{"id": 1, "name": "cat"}, {"id": 2, "name": " cat"}], "two categories have the name"),
    "no name": ([{"id": 1, "name": "cat"}, {"id": 2, "name": ""}], "category 2 has no name"),
    "null": ([{"id": 1, "name": None}, {"id": 2, "name": "dog"}], "category 1 has no name"),
    "no id": ([{"name": "cat"}, {"id": 2, "name": "dog"}], "the category 'cat' has no id"),
    "names alone": (["cat", "dog"], "number 0 of 'categories' is 'cat'"),
    "no list": ({"1": "cat"}, "'categories' is no list"),
}


@pytest.mark.parametrize("fault", CATEGORY_FAULTS)
def test_faulty_categories_are_refused(data, read, fault):
    data["categories"], message = CATEGORY_FAULTS[fault]
    assert message in read(data)[1].of(ERROR)[0].examples[0]


def test_all_faults_are_told_together(data, read):
    data["annotations"][0]["bbox"] = None
    data["annotations"][1]["category_id"] = 9
    data["annotations"][2]["segmentation"] = []
    data["annotations"][3]["segmentation"][0][0] = float("nan")
    data["images"][0]["width"] = 60.0
    _, faults = read(data)
    assert [len(faults.of(level)) for level in (ERROR, REPAIRED, WARNING)] == [2, 2, 1]
    with pytest.raises(ValueError, match=r"annotation 2 has category 9, .* \(1 more: the command check lists all\)"):
        faults.refuse()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_byte_order_marks_are_read(data, tmp_path, encoding):
    text = json.dumps(data)
    (tmp_path / "set.json").write_bytes(("\ufeff" * encoding.endswith("be") + text).encode(encoding))
    assert len(validate_coco(tmp_path / "set.json")["annotations"]) == 6
    assert read_classes(tmp_path / "set.json") == ["cat", "dog"]


@pytest.mark.parametrize(
    "prefix",
    [
        "set\\camera 1\\",
        "C:\\Users\\me\\set\\camera 1\\",
        "/home/other/set/camera 1/",
        "./set/camera 1/",
        "\\\\nas\\a\\set\\camera 1\\",
    ],
)
def test_file_names_of_other_systems_are_found(data, tmp_path, prefix):
    folder = tmp_path / "images" / "set" / "camera 1"
    folder.mkdir(parents=True)
    for image in data["images"]:
        (folder / image["file_name"]).touch()
        image["file_name"] = prefix + image["file_name"]
    (tmp_path / "set.json").write_text(json.dumps(data))
    records = load_coco("test_rules_paths", str(tmp_path / "set.json"), str(tmp_path / "images"))
    assert [(tmp_path / "images" / r["file_name"]).samefile(folder / f"{i}.png") for i, r in enumerate(records)]


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "..\\secret.png"])
def test_file_names_stay_in_their_folder(data, tmp_path, name):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "secret.png").touch()
    data["images"][0]["file_name"] = name
    (tmp_path / "set.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="leaves its folder"):
        validate_coco(tmp_path / "set.json", tmp_path / "images")


@pytest.mark.parametrize(("crowds", "level"), [(0, None), (1, None), (3, WARNING), (100, ERROR)])
def test_crowds_are_told(crowds, level):
    faults = Faults("set.json")
    tell_crowds([{"iscrowd": int(number < crowds)} for number in range(100)], faults)
    assert [fault.level for kind in (ERROR, REPAIRED, WARNING) for fault in faults.of(kind)] == [level] * bool(level)
    if level:
        sentences = [str(fault) for fault in faults.of(level)]
        assert str(crowds) in sentences[0] and "INPUT.CROWDS_AS_OBJECTS" in sentences[0]


@pytest.mark.parametrize(
    ("void", "sound"),
    [
        ({"size": [40, 60], "counts": [0, 2400]}, True),
        ({"size": [40, 60], "counts": [0, 2399]}, False),
        ({"size": [60, 40], "counts": [2400]}, False),
        ({"size": [40, 60], "counts": "PP"}, False),
        ("nothing", False),
    ],
)
def test_a_damaged_void_is_refused(data, read, void, sound):
    data["images"][1]["void"] = void
    errors = read(data)[1].of(ERROR)
    assert [error.examples[0] for error in errors] == ["image 4 has a damaged RLE of its void pixels"] * (not sound)
