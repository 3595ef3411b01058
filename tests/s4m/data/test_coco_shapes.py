"""Segmentations and boxes as annotation tools write them."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest

from d2kit.faults import ERROR, REPAIRED, WARNING

HEIGHT, WIDTH = 40, 60  # of the images of `data`


def rectangle(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def test_a_sound_json_has_no_fault(data, read, assert_right):
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
        lambda x, y, w, h: [x, y, 10**400, h],
        lambda x, y, w, h: [str(v) for v in (x, y, w, h)],
        lambda x, y, w, h: [x, y, None, h],
        lambda x, y, w, h: [x, y, w],
        lambda x, y, w, h: [],
        lambda x, y, w, h: None,
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_wrong_boxes_become_those_of_the_masks(data, read, wrong, encoded, assert_right):
    for annotation in data["annotations"]:
        if encoded:
            annotation["segmentation"] = encode(annotation)
        annotation["bbox"] = wrong(*annotation["bbox"])
    assert_right(*read(data), {"boxes that are not those of their masks": 6})


def test_a_single_wrong_box_leaves_the_others(data, read, assert_right):
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
def test_polygons_in_other_forms_are_read(data, read, form, assert_right):
    for annotation in data["annotations"]:
        annotation["segmentation"] = FORMS[form](annotation["segmentation"][0])
    counts = {"a repeated point": None, "short parts": {"dropped": 6}}
    assert_right(*read(data), counts.get(form, {"polygons written flat, as pairs or as text": 6}))


def encode(annotation, compressed=True):
    rle = mask_util.merge(mask_util.frPyObjects([rectangle(*annotation["bbox"])], HEIGHT, WIDTH))
    if compressed:
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    flat = np.concatenate([[0], mask_util.decode(rle).T.ravel().astype(int), [-1]])
    return {"size": rle["size"], "counts": np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()}


@pytest.mark.parametrize("compressed", [True, False])
def test_sound_rle_has_no_fault(data, read, compressed, assert_right):
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
    "counts",
    ["", "\u00e9\u00e9", "b'abc'", "z" * 16, [-4, 2404], [1.5, 2398.5], [2399], ["a"], 7, {"a": 1}, [2**64, 1]],
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
    data["annotations"][0] |= {"segmentation": [[-1, -1, 5, -1, 5, 5, -1, 5]], "bbox": [-1, -1, 6, 6], "area": 36}
    content, faults = read(data)
    assert len(content["annotations"]) == 6 and not any(faults.of(level) for level in (ERROR, REPAIRED, WARNING))


def test_a_set_without_any_mask_is_refused(data, read):
    for annotation in data["annotations"]:
        del annotation["segmentation"]
    [fault] = read(data)[1].of(ERROR)
    assert fault.examples == ["none of its 6 annotations has a usable mask"]
