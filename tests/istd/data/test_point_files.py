"""Points of annotation tools: units, resolutions, key points, boxes, polygons, and files that are none of these."""

import json

import cv2
import numpy as np
import pytest

from istd.data.images import SizeMismatch
from istd.data.points import PointSource

HEIGHT, WIDTH = 20, 30


def read(path, name="a", **options):
    return PointSource(path, **options)(name, HEIGHT, WIDTH)


def write_csv(folder, text, encoding="utf-8"):
    (folder / "p.csv").write_bytes(text.encode(encoding))
    return folder / "p.csv"


def write_coco(folder, annotations, **image):
    image = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT, **image}
    annotations = [{"id": 5 + i, "image_id": 1, **annotation} for i, annotation in enumerate(annotations)]
    (folder / "p.json").write_text(json.dumps({"images": [image], "annotations": annotations}))
    return folder / "p.json"


@pytest.mark.parametrize(
    "text",
    [
        "image,x,y\na,3,4\n",
        "a,3,4\n",
        "Y;X;Image\n4,0;3,4;a.png\n",
        "filename\tx\ty\r\na.bmp\t3\t4\r\n",
        "image,x,y,width,height\na,6,8,60,40\n",
        "\n\nimage, x, y\nframes/a, 3 ,4\n\n",
    ],
)
def test_forms_of_csv(tmp_path, text):
    assert read(write_csv(tmp_path, text)) == [[3, 4]]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "utf-8-sig"])
def test_encodings_and_names_with_umlauts(tmp_path, encoding):
    assert read(write_csv(tmp_path, "image,x,y\nB\u00e4r,3,4\n", encoding), "B\u00e4r") == [[3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"p\.csv has no columns"),
        ("image,left,top\na,1,2\n", r"p\.csv has the columns .*image, x and y are expected"),
        ("image,x,y\n,1,2\n", r"p\.csv, line 2: the name of the image is missing"),
        ("image,x,y\na,1\n", r"p\.csv, line 2: x '1', y '' is not a point"),
    ],
)
def test_bad_csv_files_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(write_csv(tmp_path, text))


def test_fractions_are_told_and_read_with_the_unit(tmp_path):
    path = write_csv(tmp_path, "image,x,y\na,0.10000,0.2\na,0.96667,1\n")
    points = PointSource(path)
    points("a", HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"p\.csv: all coordinates lie within 0\.\.1 and are no pixel indices.*unit="):
        points.check_all()
    points = PointSource(path, "fraction")
    assert points("a", HEIGHT, WIDTH) == [[3, 4], [29, 19]]
    points.check_all()


def test_percents(tmp_path):
    assert read(write_csv(tmp_path, "image,x,y\na,10,20\na,96.667,99.9\n"), unit="percent") == [[3, 4], [29, 19]]


@pytest.mark.parametrize("rows", ["a,0,1\na,1,1\n", "a,0.5,0.5\na,3.5,7\n", "a,,\n"])
def test_small_pixel_indices_are_no_fractions(tmp_path, rows):
    points = PointSource(write_csv(tmp_path, f"image,x,y\n{rows}"))
    points("a", HEIGHT, WIDTH)
    points.check_all()


def test_fractions_in_a_coco_json_are_told(tmp_path):
    polygon = [0.1, 0.1, 0.3, 0.1, 0.3, 0.3, 0.1, 0.3]
    points = PointSource(write_coco(tmp_path, [{"bbox": [0.1, 0.2, 0.05, 0.05]}, {"segmentation": [polygon]}]))
    points("a", HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"p\.json: all coordinates lie within 0\.\.1"):
        points.check_all()


def test_an_unknown_unit_is_named(tmp_path):
    with pytest.raises(ValueError, match="unit of points must be one of pixels, fraction, percent, not 'feet'"):
        PointSource(tmp_path, "feet")


@pytest.mark.parametrize("size", [(60, 40), (15, 10), (45.0, 30.0)])
def test_coco_of_another_resolution_is_scaled(tmp_path, size):
    scale = size[0] / WIDTH
    box = [12 * scale, 8 * scale, scale, scale]
    polygon = [18 * scale, 10 * scale, 22 * scale, 10 * scale, 22 * scale, 14 * scale, 18 * scale, 14 * scale]
    path = write_coco(tmp_path, [{"bbox": box}, {"segmentation": [polygon]}], width=size[0], height=size[1])
    points = PointSource(path)
    assert np.abs(np.subtract(points("a", HEIGHT, WIDTH), [[12, 8], [19, 11]])).max() <= 1
    [cause] = points.faults
    assert (cause.level, cause.count) == ("repaired", 1) and "p.json" in cause.examples[0]


def test_a_rounded_size_is_the_same_shape_and_a_turned_one_is_not(tmp_path):
    assert read(write_coco(tmp_path, [{"bbox": [2, 2, 0, 0]}], width=7, height=5)) == [[8, 8]]
    with pytest.raises(SizeMismatch, match=r"p\.json: its image 'a' has 20x30 pixels, and the image here has 30x20"):
        read(write_coco(tmp_path, [{"bbox": [2, 2, 0, 0]}], width=20, height=30))


@pytest.mark.parametrize("size", [{"width": None, "height": None}, {"width": 0, "height": 0}])
def test_a_coco_json_without_sizes_is_of_the_image(tmp_path, size):
    ring = [2, 2, 7, 2, 7, 5, 2, 5]
    assert read(write_coco(tmp_path, [{"bbox": [3, 4, 1, 1]}, {"segmentation": [ring]}], **size)) == [[3, 4], [4, 3]]


@pytest.mark.parametrize(
    ("annotation", "point"),
    [
        ({"keypoints": [0, 0, 0], "bbox": [3, 4, 1, 1]}, [3, 4]),
        ({"keypoints": [3.5, 4.5, 0]}, [3, 4]),
        ({"keypoints": [3.5, 4.5, 0], "bbox": [0, 0, 0, 0], "segmentation": []}, [3, 4]),
        ({"keypoints": [9, 9, 0, 3, 4, 1], "bbox": [0, 0, 9, 9]}, [3, 4]),
        ({"keypoints": [3, 4]}, [3, 4]),
        ({"segmentation": [2, 3, 5, 3, 5, 6, 2, 6]}, [3, 4]),
        ({"bbox": [3, 4, 1, 1], "iscrowd": None}, [3, 4]),
        ({"bbox": [3, 4, 1, 1], "iscrowd": "0"}, [3, 4]),
    ],
)
def test_places_of_coco_annotations(tmp_path, annotation, point):
    assert read(write_coco(tmp_path, [annotation])) == [point]


@pytest.mark.parametrize(
    "annotation",
    [
        {},
        {"keypoints": [0, 0, 0]},
        {"bbox": [0, 0, 0, 0]},
        {"bbox": [float("nan"), 1, 2, 2]},
        {"bbox": [5, 5, -2, 2]},
        {"bbox": [5, 5]},
        {"segmentation": [[1, 1, 1e9, 1, 1e9, 5]]},
        {"segmentation": [[1, 1, float("nan"), 1, 3, 5]]},
    ],
)
def test_annotations_without_a_place_are_named(tmp_path, annotation):
    points = PointSource(write_coco(tmp_path, [{"bbox": [3, 4, 1, 1]}, annotation]))
    with pytest.raises(ValueError, match=r"p\.json: annotation 6 of image 'a\.png' has no key point"):
        points("a", HEIGHT, WIDTH)


def test_crowds_are_told_and_taken_where_there_is_nothing_else(tmp_path):
    points = PointSource(write_coco(tmp_path, [{"bbox": [3, 4, 1, 1]}, {"bbox": [9, 9, 1, 1], "iscrowd": 1}]))
    assert points("a", HEIGHT, WIDTH) == [[3, 4]]
    assert [(cause.level, cause.count) for cause in points.faults] == [("warning", 1)]
    points = PointSource(write_coco(tmp_path, [{"bbox": [3, 4, 1, 1], "iscrowd": 1}]))
    assert points("a", HEIGHT, WIDTH) == [[3, 4]]
    assert [(cause.level, cause.count) for cause in points.faults] == [("repaired", 1)]


def test_voc_of_another_resolution_is_scaled(tmp_path):
    box = "<object><bndbox><xmin>7</xmin><ymin>9</ymin><xmax>8</xmax><ymax>10</ymax></bndbox></object>"
    size = "<size><width>60</width><height>40</height></size>"
    (tmp_path / "a.xml").write_text(f"<annotation>{size}{box}</annotation>")
    assert read(tmp_path) == [[3, 4]]
    (tmp_path / "a.xml").write_text(f"<annotation><size><width>0</width></size>{box}</annotation>")
    assert read(tmp_path) == [[7, 9]]


@pytest.mark.parametrize(
    "line",
    [
        "0 0.116667 0.225 0.04 0.05",
        "0 0.116667 0.225 0.04 0.05 0.93",
        "target 0.116667 0.225",
        "0 0.1 0.2 0.133333 0.2 0.133333 0.25 0.1 0.25",
    ],
)
def test_yolo_boxes_scores_and_polygons(tmp_path, line):
    (tmp_path / "a.txt").write_text(f"{line}\n\n")
    (tmp_path / "empty.txt").touch()
    points = PointSource(tmp_path)
    assert points("a", HEIGHT, WIDTH) == [[3, 4]] and points("empty", HEIGHT, WIDTH) == []
    points.check_all()


@pytest.mark.parametrize("line", ["0 12 9 3 3", "0 0.5", "0 a b c d", "0 0.1 nan 0.1 0.1"])
def test_bad_yolo_lines_are_named(tmp_path, line):
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 2: "):
        read(tmp_path)


@pytest.mark.parametrize(
    ("shape_type", "corners"),
    [
        ("point", [[3.5, 4.5]]),
        ("circle", [[3.5, 4.5], [9, 4.5]]),
        ("rectangle", [[2, 3], [5, 6]]),
        ("polygon", [[2, 3], [5, 3], [5, 6], [2, 6]]),
        ("line", [[2, 4.2], [5, 4.2]]),
    ],
)
def test_labelme_shapes(tmp_path, shape_type, corners):
    content = {"shapes": [{"shape_type": shape_type, "points": corners}], "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read(tmp_path) == [[3, 4]]
    doubled = [[2 * x, 2 * y] for x, y in corners]
    content = {"shapes": [{"shape_type": shape_type, "points": doubled}], "imageHeight": 40, "imageWidth": 60}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read(tmp_path) == [[3, 4]]


@pytest.mark.parametrize("content", ["[]", "{}", '{"shapes": [{"points": []}]}', "{"])
def test_bad_labelme_files_are_named(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json is not a labelme file"):
        read(tmp_path)


@pytest.mark.parametrize(("shape", "size"), [(cv2.MORPH_CROSS, 3), (cv2.MORPH_ELLIPSE, 5), (cv2.MORPH_RECT, 2)])
def test_dots_of_several_pixels_are_one_point(tmp_path, shape, size):
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    picture[4, 5] = picture[15, 25] = 255
    kernel = cv2.getStructuringElement(shape, (size, size))
    cv2.imwrite(str(tmp_path / "a.png"), cv2.dilate(picture, kernel))
    points = PointSource(tmp_path)
    tolerance = 0 if size % 2 else 1
    assert np.abs(np.subtract(points("a", HEIGHT, WIDTH), [[5, 4], [25, 15]])).max() <= tolerance
    assert "a.png: 2 dots have" in next(iter(points.faults)).examples[0]


def test_dots_that_touch_are_told(tmp_path):
    for name, places in (("a", [(5, 4), (20, 10)]), ("b", [(5, 4), (8, 4)]), ("c", [(3, 3)])):
        picture = np.zeros((HEIGHT, WIDTH), np.uint8)
        for x, y in places:
            picture[y - 1 : y + 2, x - 1 : x + 2] = 255
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    points = PointSource(tmp_path)
    assert [len(points(name, HEIGHT, WIDTH)) for name in "abc"] == [2, 1, 1]
    points.check_all()
    [cause] = [cause for cause in points.faults if cause.level == "warning"]
    assert "b.png: a dot has 18 pixels where most have 9" in str(cause) and cause.count == 1


def test_a_white_picture_has_no_points(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((HEIGHT, WIDTH), 255, np.uint8))
    with pytest.raises(ValueError, match=r"a\.png.*(600 of 600 pixels are white|100 % of it is target)"):
        read(tmp_path)


def test_swapped_points_are_hinted_at(tmp_path):
    with pytest.raises(ValueError, match=r"point \(4, 25\) is outside.*Are x and y swapped"):
        read(write_csv(tmp_path, "image,x,y\na,4,25\n"))


@pytest.mark.parametrize("counts", ["PPYo0", "0", [10, 5], [2**40, 1], [-5, 605], None, ""])
def test_a_damaged_rle_is_refused(tmp_path, counts):
    path = write_coco(tmp_path, [{"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}])
    with pytest.raises(ValueError, match=r"p\.json: annotation 5 of image 'a\.png'.* RLE"):
        read(path)


def test_a_polygon_in_an_image_of_any_claimed_size_takes_little_memory(tmp_path):
    scale = 100_000
    corners = [value * scale for value in (3.25, 4.25, 3.2501, 4.25, 3.2501, 4.2501, 3.25, 4.2501)]
    path = write_coco(tmp_path, [{"segmentation": [corners]}], width=WIDTH * scale, height=HEIGHT * scale)
    assert read(path) == [[3, 4]]


def test_an_rle_of_too_many_pixels_is_refused(tmp_path):
    side = 2**17
    segmentation = {"size": [side, side], "counts": [2**31, 2**31, 2**31, 2**31, 2**31, 2**31, 2**31, 2**31]}
    path = write_coco(tmp_path, [{"segmentation": segmentation}])
    with pytest.raises(ValueError, match=r"p\.json: annotation 5 .* more than"):
        read(path)


def test_polygons_of_pairs_are_read(tmp_path):
    path = write_coco(tmp_path, [{"segmentation": [[[2, 3], [5, 3], [5, 6], [2, 6]]]}])
    assert read(path) == [[3, 4]]


@pytest.mark.parametrize(("image_id", "other"), [("1", 1), (1, "1"), (1.0, "1"), ("b-2", "b-2")])
def test_ids_of_images_in_any_type_meet(tmp_path, image_id, other):
    path = write_coco(tmp_path, [{"bbox": [3, 4, 1, 1], "image_id": image_id}], id=other)
    assert read(path) == [[3, 4]]


@pytest.mark.parametrize("value", [None, False, "false", "0", 0.0, ""])
def test_objects_that_are_no_crowds_stay(tmp_path, value):
    path = write_coco(tmp_path, [{"bbox": [3, 4, 1, 1], "iscrowd": value}, {"bbox": [9, 9, 1, 1], "iscrowd": "1"}])
    assert read(path) == [[3, 4]]


@pytest.mark.parametrize("name", ["p.json", "a.json"])
def test_a_json_nested_too_deep_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=name):
        read(path if name == "p.json" else tmp_path)
