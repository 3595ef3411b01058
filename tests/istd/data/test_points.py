import csv
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from istd.data.images import SizeMismatch, read_mask
from istd.data.points import PointSource, points_from_mask

XML = "<annotation>{}</annotation>"
BOX = "<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def write_point_image(folder, name, points, size=(20, 30)):
    folder.mkdir(exist_ok=True)
    picture = np.zeros(size, np.uint8)
    for x, y in points:
        picture[y, x] = 255
    cv2.imwrite(str(folder / f"{name}.png"), picture)


def write_coco(path, annotations, size=(20, 30)):
    image = {"id": 7, "file_name": "folder/a.png", "height": size[0], "width": size[1]}
    other = {**image, "id": 8, "file_name": "empty.png"}
    annotations = [{"id": i, "image_id": 7, "category_id": 1, **a} for i, a in enumerate(annotations)]
    path.write_text(json.dumps({"images": [image, other], "annotations": annotations}))


def write_csv(path, rows, header=("image", "x", "y")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.mark.parametrize("points", [[], [[4, 5]], [[4, 5], [29, 19], [0, 0]]])
def test_point_images(tmp_path, points):
    write_point_image(tmp_path / "p", "a", points)
    found = PointSource(tmp_path / "p")("a", 20, 30)
    assert sorted(found) == sorted(points)


def test_csv_in_any_column_order(tmp_path):
    path = tmp_path / "p.csv"
    write_csv(path, [(5, "a.png", 4), (6.6, "a", 7.2), ("", "empty", "")], header=("y", "image", "x"))
    points = PointSource(path)
    assert points("a", 20, 30) == [[4, 5], [7, 7]] and points("empty", 20, 30) == []


@pytest.mark.parametrize("row", [("a", "x", 3), ("a", 3, ""), ("a", "nan", 3), ("a", "inf", 3)])
def test_bad_csv_lines_are_named(tmp_path, row):
    write_csv(tmp_path / "p.csv", [("a", 1, 1), row])
    with pytest.raises(ValueError, match=r"p\.csv, line 3: x .* is not a point"):
        PointSource(tmp_path / "p.csv")


def test_csv_columns_are_checked(tmp_path):
    write_csv(tmp_path / "p.csv", [], header=("name", "x", "y"))
    with pytest.raises(ValueError, match=r"p\.csv has the columns .*image, x and y are expected"):
        PointSource(tmp_path / "p.csv")


def test_coco_key_points_segmentations_and_boxes(tmp_path):
    rle = coco_mask.encode(np.asfortranarray(np.eye(20, 30, dtype=np.uint8)))
    rle["counts"] = rle["counts"].decode()
    ring = np.zeros((20, 30), np.uint8)
    cv2.circle(ring, (12, 9), 4, 1, 1)
    runs = np.flatnonzero(np.diff(np.concatenate([[0], ring.ravel(order="F"), [0]])))
    uncompressed = {"size": [20, 30], "counts": np.diff([0, *runs.tolist(), 600]).tolist()}
    write_coco(
        tmp_path / "c.json",
        [
            {"keypoints": [3.7, 4.2, 2], "bbox": [0, 0, 1, 1]},
            {"keypoints": [0, 0, 0], "bbox": [5, 6, 1, 1]},
            {"bbox": [10, 11, 4, 3]},
            {"segmentation": [[2, 2, 7, 2, 7, 5, 2, 5]], "bbox": [0, 0, 1, 1]},
            {"segmentation": rle, "bbox": [0, 0, 1, 1]},
            {"segmentation": uncompressed, "bbox": [0, 0, 1, 1]},
            {"segmentation": rle, "bbox": [0, 0, 1, 1], "iscrowd": 1},
        ],
    )
    points = PointSource(tmp_path / "c.json")
    found = points("a", 20, 30)
    assert found[:5] == [[3, 4], [5, 6], [12, 12], [4, 3], [9, 9]] and len(found) == 6
    assert ring[found[5][1], found[5][0]] == 1  # the centroid of a ring is off it
    assert points("empty", 20, 30) == []


@pytest.mark.parametrize("content", ["{", "{}", '{"images": [{}]}', '{"images": [], "annotations": [{"image_id": 3}]}'])
def test_what_is_no_coco_file_is_named(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=r"c\.json is not a COCO annotation file"):
        PointSource(tmp_path / "c.json")


def test_voc_boxes_count_from_1(tmp_path):
    (tmp_path / "a.xml").write_text(XML.format(BOX.format(6, 1, 8, 1) + BOX.format(30, 20, 30, 20)))
    (tmp_path / "empty.xml").write_text(XML.format(""))
    points = PointSource(tmp_path)
    assert points("a", 20, 30) == [[6, 0], [29, 19]] and points("empty", 20, 30) == []


@pytest.mark.parametrize("content", ["<annotation>", XML.format("<bndbox><xmin>1</xmin></bndbox>")])
def test_what_is_no_voc_file_is_named(tmp_path, content):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(ValueError, match=r"a\.xml is not a VOC annotation file"):
        PointSource(tmp_path)("a", 20, 30)


@pytest.mark.parametrize("source", ["csv", "json", "xml"])
def test_a_point_outside_names_the_file(tmp_path, source):
    path = {"csv": tmp_path / "p.csv", "json": tmp_path / "p.json", "xml": tmp_path / "a.xml"}[source]
    if source == "csv":
        write_csv(path, [("a", 30, 2)])
    elif source == "json":
        write_coco(path, [{"bbox": [30, 2, 1, 1]}])
    else:
        path.write_text(XML.format(BOX.format(31, 3, 31, 3)))
    points = PointSource(tmp_path if source == "xml" else path)
    with pytest.raises(ValueError, match=rf"{path.name}: point \(30, 2\) is outside image 'a' of 30x20 pixels"):
        points("a", 20, 30)


def test_two_points_on_one_pixel_are_merged_and_told(tmp_path):
    write_csv(tmp_path / "p.csv", [("a", 3, 4), ("a", 5, 6), ("a", 3, 4), ("a", 3, 4)])
    points = PointSource(tmp_path / "p.csv")
    assert points("a", 20, 30) == [[3, 4], [5, 6]]
    [cause] = points.faults
    assert cause.level == "repaired" and "p.csv: image 'a' has two points on one pixel" in cause.examples[0]


def test_unknown_images_and_sources(tmp_path):
    write_point_image(tmp_path / "p", "a", [])
    with pytest.raises(KeyError, match="image 'b' has no points in"):
        PointSource(tmp_path / "p")("b", 20, 30)
    with pytest.raises(SizeMismatch, match=r"a\.png are 30x20 pixels but its image 'a' is 31x20"):
        PointSource(tmp_path / "p")("a", 20, 31)
    with pytest.raises(FileNotFoundError, match="none' do not exist"):
        PointSource(tmp_path / "none")
    (tmp_path / "p.txt").touch()
    with pytest.raises(ValueError, match=r"p\.txt is no source of points"):
        PointSource(tmp_path / "p.txt")


def test_points_of_no_one_and_many_targets():
    mask = np.zeros((20, 30), np.uint8)
    assert points_from_mask(mask) == []
    mask[2, 3:7] = 1
    assert points_from_mask(mask) == [[4, 2]]
    mask[10, 20] = mask[11, 21] = 255  # 8-connected: one target
    assert points_from_mask(mask) == [[4, 2], [20, 10]]


def test_coarse_points_are_on_their_own_target():
    mask = np.zeros((60, 90), np.uint8)
    cv2.circle(mask, (20, 20), 8, 1, 1)  # a ring, whose center is not target
    cv2.circle(mask, (20, 20), 2, 1, -1)  # around another target
    cv2.circle(mask, (60, 30), 5, 1, -1)
    labels = cv2.connectedComponents(mask, connectivity=8)[1]
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        points = points_from_mask(mask, "coarse", rng)
        assert [labels[y, x] for x, y in points] == [1, 2, 3]
        seen.add(tuple(points[2]))
    assert len(seen) > 3
    with pytest.raises(ValueError, match="a generator is needed"):
        points_from_mask(mask, "coarse")
    with pytest.raises(ValueError, match="must be one of"):
        points_from_mask(mask, "corner")


@pytest.mark.parametrize("folder", ["sirst", "sirst_v2_extra", "sirst/fixed"])
def test_centroids_of_the_real_masks_are_the_published_tool_s(shared, folder):
    root = shared / "data" / folder
    published = PointSource(root / "masks_centroid")
    paths = sorted((root / "masks").iterdir())
    assert paths
    for path in paths:
        mask = read_mask(path)
        assert sorted(points_from_mask(mask)) == sorted(published(path.stem, *mask.shape))
