"""The rules of COCO jsons, on a set of rectangles whose masks and boxes are known."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest

from d2kit.coco_masks import decode_segmentation
from s4m.data.coco import load_coco, read_classes, read_coco, validate_coco
from s4m.data.coco_ids import plain_id
from s4m.data.coco_records import tell_crowds
from s4m.data.faults import ERROR, REPAIRED, WARNING, Faults

HEIGHT, WIDTH = 40, 60
CORNERS = [(4, 5, 20, 15), (30, 8, 12, 25), (22, 20, 30, 12)]  # x, y, width, height in pixels


def rectangle(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


@pytest.fixture
def data():
    """Two images with the three rectangles each, of two classes."""
    images = [{"id": 3 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(2)]
    annotations = [
        {
            "id": 1 + 3 * i + j,
            "image_id": 3 + i,
            "category_id": 1 + j % 2,
            "segmentation": [rectangle(*box)],
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i in range(2)
        for j, box in enumerate(CORNERS)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def read(tmp_path):
    """Function that writes a content as a json and reads it by the rules."""

    def write_and_read(data):
        (tmp_path / "set.json").write_text(json.dumps(data))
        return read_coco(tmp_path / "set.json")

    return write_and_read


def assert_right(data, faults, counts=None):
    """The six rectangles arrive with masks, boxes and ids, and each headline that is named has its count."""
    assert faults.of(ERROR) == []
    assert len(data["annotations"]) == 6
    assert len({annotation["id"] for annotation in data["annotations"]} - {0}) == 6
    for number, annotation in enumerate(data["annotations"]):
        x, y, width, height = CORNERS[number % 3]
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y : y + height, x : x + width] = True
        assert (decode_segmentation(annotation["segmentation"], HEIGHT, WIDTH).astype(bool) == mask).all()
        assert annotation["bbox"] == [x, y, width, height]
        assert annotation["image_id"] == data["images"][number // 3]["id"]
        assert annotation["category_id"] == data["categories"][number % 3 % 2]["id"]
        assert annotation["iscrowd"] == 0 and annotation.get("area", width * height) == width * height
    told = {fault.headline: fault.count for level in (REPAIRED, WARNING) for fault in faults.of(level)}
    for headline, count in (counts or {}).items():
        assert [n for text, n in told.items() if headline in text] == [count], told
    assert counts or not told


def test_a_sound_json_has_no_fault(data, read):
    assert_right(*read(data))


def centered(x, y, width, height):
    return [x + width / 2, y + height / 2, width, height]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, y, w, h: [x + w, y + h, -w, -h],
        lambda x, y, w, h: [x, y, x + w, y + h],
        centered,
        lambda x, y, w, h: [y, x, h, w],
        lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT],
        lambda x, y, w, h: [float("inf")] * 4,
        lambda x, y, w, h: [str(v) for v in (x, y, w, h)],
        lambda x, y, w, h: [x, y, None, h],
        lambda x, y, w, h: [x, y, w],
        lambda x, y, w, h: [],
        lambda x, y, w, h: None,
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_wrong_boxes_become_those_of_the_masks(data, read, wrong, encoded):
    for annotation in data["annotations"]:
        if encoded:
            annotation["segmentation"] = encode(annotation)
        annotation["bbox"] = wrong(*annotation["bbox"])
    assert_right(*read(data), {"boxes that are not those of their masks": 6})


def test_a_single_wrong_box_leaves_the_others(data, read):
    data["annotations"][4]["bbox"] = [0, 0, 0, 0]
    del data["annotations"][5]["bbox"]
    assert_right(*read(data), {"boxes that are not those of their masks": 2})


def test_boxes_somewhat_larger_than_masks_stay(data, read):
    data["annotations"][0]["bbox"] = [3, 4, 22, 17]
    content, faults = read(data)
    assert content["annotations"][0]["bbox"] == [3, 4, 22, 17] and faults.of(REPAIRED) == []


FORMS = {
    "flat": lambda part: part,
    "pairs": lambda part: [list(pair) for pair in zip(part[::2], part[1::2], strict=True)],
    "parts of pairs": lambda part: [[list(pair) for pair in zip(part[::2], part[1::2], strict=True)]],
    "OpenCV's contours": lambda part: [[[list(pair)] for pair in zip(part[::2], part[1::2], strict=True)]],
    "points": lambda part: [{"x": x, "y": y} for x, y in zip(part[::2], part[1::2], strict=True)],
    "text": lambda part: [[str(value) for value in part]],
    "json in text": lambda part: json.dumps([part]),
    "short parts": lambda part: [[1, 2], part, [1, 1, 5, 5]],
    "a repeated point": lambda part: [part[:2] + part],
}


@pytest.mark.parametrize("form", FORMS)
def test_polygons_in_other_forms_are_read(data, read, form):
    for annotation in data["annotations"]:
        annotation["segmentation"] = FORMS[form](annotation["segmentation"][0])
    counts = {"a repeated point": None, "short parts": {"dropped": 6}}
    assert_right(*read(data), counts.get(form, {"polygons written flat, as pairs or as text": 6}))


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
def test_ids_of_all_records_are_mapped(data, read, form):
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
def test_annotations_without_ids_get_some(data, read, value):
    for annotation in data["annotations"][2:]:
        annotation["id"] = value
        if value == "absent":
            del annotation["id"]
    assert_right(*read(data), {"ids of annotations, counted anew": 6})


def test_mixed_types_of_one_id_meet(data, read):
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
def test_iscrowd_of_another_type_is_0(data, read, value):
    rewrite(data, "annotations", "iscrowd", lambda _: value)
    assert_right(*read(data), {"iscrowd that is null or of another type": 6})


@pytest.mark.parametrize("value", ["1", 1.0, True, "True", [1]])
def test_iscrowd_of_another_type_is_1(data, read, value):
    data["annotations"][1]["iscrowd"] = value
    content, faults = read(data)
    assert [annotation["iscrowd"] for annotation in content["annotations"]] == [0, 1, 0, 0, 0, 0]
    assert type(content["annotations"][1]["iscrowd"]) is int and not faults.of(ERROR)


@pytest.mark.parametrize("value", [None, [], "", "none", -5, 0, float("nan"), {"px": 3}])
def test_areas_that_are_none_are_left_to_the_mask(data, read, value):
    rewrite(data, "annotations", "area", lambda _: value)
    content, faults = read(data)
    assert_right(content, faults, {"areas that are no positive number": 6})
    assert not any("area" in annotation for annotation in content["annotations"])


@pytest.mark.parametrize("form", [lambda area: [area], str, lambda area: [str(area)]])
def test_areas_of_another_type_are_read(data, read, form):
    rewrite(data, "annotations", "area", form)
    assert_right(*read(data), {"areas of another type": 6})


@pytest.mark.parametrize("form", [float, str, lambda side: f"{side}.0"])
def test_sizes_of_another_type_are_read(data, read, form):
    for key in ("height", "width"):
        rewrite(data, "images", key, form)
    content, faults = read(data)
    assert_right(content, faults, {"sizes of images": 4})
    assert [type(image[key]) for image in content["images"] for key in ("height", "width")] == [int] * 4


def encode(annotation, compressed=True):
    rle = mask_util.merge(mask_util.frPyObjects([rectangle(*annotation["bbox"])], HEIGHT, WIDTH))
    if compressed:
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    flat = np.concatenate([[0], mask_util.decode(rle).T.ravel().astype(int), [-1]])
    return {"size": rle["size"], "counts": np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()}


@pytest.mark.parametrize("compressed", [True, False])
def test_sound_rle_has_no_fault(data, read, compressed):
    for annotation in data["annotations"]:
        annotation["segmentation"] = encode(annotation, compressed)
    assert_right(*read(data))


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8, 0.95])
def test_a_compressed_rle_that_was_cut_is_refused_wherever_it_was_cut(data, read, share):
    for number, annotation in enumerate(data["annotations"]):
        annotation["segmentation"] = encode(annotation)
        counts = annotation["segmentation"]["counts"]
        if number == 4:
            annotation["segmentation"]["counts"] = counts[: int(len(counts) * share)]
    [fault] = read(data)[1].of(ERROR)
    assert fault.count == 1 and fault.examples[0].startswith("annotation 5 has an RLE of ")


@pytest.mark.parametrize(
    "counts", ["", "\u00e9\u00e9", "b'abc'", "zzzzzzzzzzzzzzzz", [-4, 2404], [1.5, 2398.5], [2399], ["a"], 7, {"a": 1}]
)
def test_other_damaged_rle_is_refused(data, read, counts):
    data["annotations"][2]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    [fault] = read(data)[1].of(ERROR)
    assert fault.headline == "damaged RLE" and fault.examples[0].startswith("annotation 3 has ")


def test_random_rle_add_up(read):
    rng = np.random.default_rng(0)
    images = [{"id": 1, "file_name": "a.png", "height": 37, "width": 53}]
    annotations = []
    for number in range(1, 60):
        mask = np.asfortranarray(rng.random((37, 53)) < rng.random(), np.uint8)
        rle = mask_util.encode(mask)
        rle = {"size": rle["size"], "counts": rle["counts"].decode()}
        box = mask_util.toBbox(rle).tolist()
        annotations.append({"id": number, "image_id": 1, "category_id": 1, "segmentation": rle, "bbox": box})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "noise"}]}
    content, faults = read(data)
    assert len(content["annotations"]) == 59 and not faults.of(ERROR) and not faults.of(REPAIRED)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (2, float("inf"), "annotation 4 has a coordinate that is no number"),
        (0, None, "annotation 4 has a coordinate that is no number"),
        (5, "left", "annotation 4 has a coordinate that is no number"),
        (1, -1e9, "annotation 4 has a polygon that reaches far beyond its image"),
        (6, 1e300, "annotation 4 has a polygon that reaches far beyond its image"),
        (3, 10**400, "annotation 4 has a coordinate that is no number"),
    ],
)
def test_wild_coordinates_are_refused(data, read, place, value, message):
    data["annotations"][3]["segmentation"][0][place] = value
    [fault] = read(data)[1].of(ERROR)
    assert fault.count == 1 and message in fault.examples[0]


@pytest.mark.parametrize("whole", [True, False])
def test_fractions_of_the_image_are_refused(data, read, whole):
    for annotation in data["annotations"] if whole else data["annotations"][:2]:
        part = np.array(annotation["segmentation"][0]).reshape(-1, 2) / (WIDTH, HEIGHT)
        annotation["segmentation"] = [part.ravel().tolist()]
    [fault] = read(data)[1].of(ERROR)
    assert f"{6 if whole else 2} of 6 polygons lie within 0..1 and are no pixels" in fault.examples[0]


def test_objects_at_the_border_stay(data, read):
    data["annotations"][0] |= {"segmentation": [[-1, -1, 5, -1, 5, 5, -1, 5]], "bbox": [-1, -1, 6, 6]}
    content, faults = read(data)
    assert len(content["annotations"]) == 6 and not any(faults.of(level) for level in (ERROR, REPAIRED, WARNING))


def test_a_set_without_any_mask_is_refused(data, read):
    for annotation in data["annotations"]:
        del annotation["segmentation"]
    [fault] = read(data)[1].of(ERROR)
    assert fault.examples == ("none of its 6 annotations has a usable mask",)


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
        sentences = faults.sentences(level)
        assert str(crowds) in sentences[0] and "INPUT.CROWDS_AS_OBJECTS" in sentences[0]
