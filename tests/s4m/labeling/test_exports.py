"""Exported labels are read back with the masks that were written."""

import json
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO

from d2kit.coco_masks import encode_mask
from s4m.labeling.exports import to_brush_rle, to_polygon, write_label_studio, write_yolo
from s4m.labeling.files import write_labels

HEIGHT, WIDTH = 40, 60


def masks():
    """A disk, a ring with a hole, three parts, a line of one pixel's width, and a single pixel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(y - 18, x - 25)
    parts = np.zeros((HEIGHT, WIDTH), bool)
    parts[2:9, 3:12] = parts[20:30, 40:55] = parts[35:38, 5:9] = True
    line, pixel = np.zeros((2, HEIGHT, WIDTH), bool)
    line[7, 5:50] = True
    pixel[39, 59] = True
    return {
        "disk": distance < 12,
        "hole": (distance < 15) & (distance > 6),
        "parts": parts,
        "line": line,
        "pixel": pixel,
    }


def decode_brush(data):
    """Decode rle-pack as its documentation in TypeScript does, bit by bit; the mask is where alpha is 255."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < number:
        is_run = read(1)
        count = read(sizes[read(2)]) + 1
        values += [read(word)] * count if is_run else [read(word) for _ in range(count)]
    assert len(values) == number
    return np.array(values).reshape(HEIGHT, WIDTH, 4)


@pytest.fixture
def labels(tmp_path):
    """Folder with images/a/x.png, which has all masks, and images/y.png, which has none; and labels.json."""
    for name in ("a/x.png", "y.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    images = [{"id": 1, "file_name": "a/x.png"}, {"id": 2, "file_name": "y.png"}]
    images = [image | {"height": HEIGHT, "width": WIDTH} for image in images]
    annotations = [
        {"image_id": 1, "category_id": 1 + number % 2, **encode_mask(mask), "iscrowd": 0, "confidence": 0.5}
        for number, mask in enumerate(masks().values())
    ]
    categories = [{"id": 1, "name": "cell & core"}, {"id": 2, "name": "star"}]
    write_labels(tmp_path / "labels.json", {"info": {}, "categories": categories}, images, annotations)
    return tmp_path


def test_a_known_brush():
    # 8 values of 255 in one run: 32 bits "8", 5 bits "7", four sizes, then 1, size 0, length 8 - 1, value 255.
    bits = f"{8:032b}{7:05b}{3:04b}{7:04b}{11:04b}{15:04b}1{0:02b}{7:04b}{255:08b}"
    expected = int(bits.ljust(72, "0"), 2).to_bytes(9, "big")
    assert to_brush_rle(np.ones((1, 2), bool)) == list(expected)


def test_a_long_run_is_split():
    mask = np.ones((200, 200), bool)  # 160,000 values; a run has at most 65,536.
    data = to_brush_rle(mask)
    assert len(data) == -(-(53 + 3 * (1 + 2 + 16 + 8)) // 8)


@pytest.mark.parametrize("name", masks())
def test_label_studio_reads_each_mask(name, labels):
    path = write_label_studio(labels / "labels.json", labels / "images", labels / "studio")
    first, second = json.loads(path.read_text())
    assert first["data"]["image"] == "/data/local-files/?d=a/x.png"
    assert second["predictions"][0]["result"] == []
    number = list(masks()).index(name)
    result = first["predictions"][0]["result"][number]
    assert result["value"]["brushlabels"] == [("cell & core", "star")[number % 2]]
    assert (result["original_width"], result["original_height"], result["score"]) == (WIDTH, HEIGHT, 0.5)
    channels = decode_brush(result["value"]["rle"])
    assert (channels == 255 * masks()[name][..., None]).all()


def test_the_interface_of_label_studio_names_the_classes(labels):
    write_label_studio(labels / "labels.json", labels / "images", labels / "studio")
    view = ElementTree.parse(labels / "studio" / "config.xml").getroot()
    assert [label.get("value") for label in view.iter("Label")] == ["cell & core", "star"]


def test_yolo_reads_each_mask_but_for_the_bridges(labels):
    data = yaml.safe_load(write_yolo(labels / "labels.json", labels / "images", labels / "yolo").read_text())
    assert data == {"train": "images", "val": "images", "names": {0: "cell & core", 1: "star"}}
    assert (labels / "yolo" / "images" / "a" / "x.png").is_file()
    assert (labels / "yolo" / "labels" / "y.txt").read_text() == ""
    lines = (labels / "yolo" / "labels" / "a" / "x.txt").read_text().splitlines()
    for number, (line, (name, mask)) in enumerate(zip(lines, masks().items(), strict=True)):
        kind, *points = line.split()
        assert int(kind) == number % 2
        points = np.array(points, float).reshape(-1, 2)
        assert len(points) >= 3 and (points > 0).all() and (points < 1).all()
        # YOLO's own reader multiplies by the sides and cuts to whole pixels.
        found = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [(points * (WIDTH, HEIGHT)).astype(np.int32)], 1) > 0
        assert found[mask].all(), name
        bridges = {"hole": 12, "parts": 60}.get(name, 0)  # at most: the hole is 10 pixels wide, the parts lie 57 apart
        assert (found & ~mask).sum() <= bridges, name


def test_a_hole_stays_a_hole():
    ring = masks()["hole"]
    found = cv2.fillPoly(np.zeros(ring.shape, np.uint8), [to_polygon(ring).astype(np.int32)], 1)
    assert not found[18, 25]


def test_cvat_and_fiftyone_read_the_json_by_pycocotools(labels):
    coco = COCO(labels / "labels.json")
    for annotation, mask in zip(coco.loadAnns(coco.getAnnIds(imgIds=1)), masks().values(), strict=True):
        assert (coco.annToMask(annotation) == mask).all()


def test_yolo_replaces_its_own_link_alone(labels):
    for _ in range(2):
        write_yolo(labels / "labels.json", labels / "images", labels / "yolo")
    (labels / "mine" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match="is of another origin"):
        write_yolo(labels / "labels.json", labels / "images", labels / "mine")


def test_yolo_refuses_the_folder_of_the_images(labels):
    with pytest.raises(ValueError, match="would mix with the inputs"):
        write_yolo(labels / "labels.json", labels / "images", labels / "images" / "yolo")
