"""A COCO json of rectangles, whose masks and boxes are known."""

import json

import numpy as np
import pytest

from d2kit.coco_masks import decode_segmentation
from d2kit.faults import ERROR, REPAIRED, WARNING
from s4m.data.coco import read_coco

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


def _assert_right(data, faults, counts=None):
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


@pytest.fixture
def assert_right():
    """Function (content, faults, counts=None) that compares with `data` and counts repairs and warnings."""
    return _assert_right
