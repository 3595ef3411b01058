"""Masks of a whole json in percentages, with x and y swapped, or with run lengths along rows."""

import numpy as np
import pytest

from d2kit.coco_masks import encode_mask
from d2kit.faults import ERROR, WARNING

HEIGHT, WIDTH = 40, 60


def rewrite_polygons(data, function):
    """Apply a function of (N, 2) points x, y to all polygons."""
    for annotation in data["annotations"]:
        points = np.reshape(annotation["segmentation"][0], (-1, 2))
        annotation["segmentation"] = [np.asarray(function(points)).ravel().tolist()]


def errors(faults):
    return [fault.headline for fault in faults.of(ERROR)]


def test_percentages_of_a_small_image_are_refused(data, read):
    rewrite_polygons(data, lambda points: points * (100 / WIDTH, 100 / HEIGHT))
    assert errors(read(data)[1]) == ["polygons in percentages of the image"]


@pytest.mark.parametrize(("objects", "refused"), [(6, False), (12, True)])
def test_percentages_of_large_images_are_refused_if_there_are_many(data, read, objects, refused):
    for image in data["images"]:
        image.update(height=10 * HEIGHT, width=10 * WIDTH)
    rewrite_polygons(data, lambda points: points * (100 / WIDTH, 100 / HEIGHT))
    copies = [{**annotation, "id": annotation["id"] + 100} for annotation in data["annotations"]]
    data["annotations"] += copies[: objects - 6]
    assert errors(read(data)[1]) == ["polygons in percentages of the image"] * refused


def test_pixels_of_a_small_image_are_no_percentages(data, read):
    rewrite_polygons(data, lambda points: points + (8, 0))
    assert errors(read(data)[1]) == []


def test_polygons_with_y_before_x_are_refused(data, read):
    for annotation in data["annotations"]:
        annotation["segmentation"] = [
            [float(v) for v in np.reshape(annotation["segmentation"], (-1, 2))[:, ::-1].ravel()]
        ]
    assert errors(read(data)[1]) == ["polygons with y before x"]


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_along_rows_are_refused(data, read, compressed):
    for annotation in data["annotations"]:
        x, y, width, height = annotation["bbox"]
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y : y + height, x : x + width] = True
        if compressed:
            counts = encode_mask(mask.T)["segmentation"]["counts"]
        else:
            edges = np.flatnonzero(np.diff(mask.ravel().astype(int))) + 1
            counts = np.diff([0, *edges, mask.size]).tolist()
        annotation["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    assert errors(read(data)[1]) == ["RLE that run along rows"]


def test_objects_and_images_that_are_there_twice_are_told(data, read):
    data["annotations"].append({**data["annotations"][0], "id": 99})
    data["images"][1]["file_name"] = data["images"][0]["file_name"]
    faults = read(data)[1]
    assert errors(faults) == []
    assert [(fault.headline.split(",")[0], fault.count) for fault in faults.of(WARNING)] == [
        ("images that are listed several times", 1),
        ("objects that are there twice", 1),
    ]


@pytest.mark.parametrize("boxes", ["none", "swapped", "x before y in a few"])
def test_swapped_polygons_without_right_boxes_are_refused(data, read, boxes):
    data["annotations"] += [{**annotation, "id": annotation["id"] + 100} for annotation in data["annotations"]]
    rewrite_polygons(data, lambda points: points[:, ::-1])
    for annotation in data["annotations"]:
        x, y, width, height = annotation.pop("bbox")
        if boxes == "swapped":
            annotation["bbox"] = [y, x, height, width]
        elif boxes != "none" and annotation["id"] < 3:
            annotation["bbox"] = [x, y, width, height]
    assert errors(read(data)[1]) == ["polygons with y before x"]


def test_polygons_that_reach_below_their_images_are_not_swapped(data, read):
    rewrite_polygons(data, lambda points: points + (0, HEIGHT / 2))
    assert errors(read(data)[1]) == []
