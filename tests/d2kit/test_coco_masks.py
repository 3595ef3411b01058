"""COCO's segmentations of each kind against a mask drawn by hand."""

import json

import numpy as np
import pytest

from d2kit.coco_masks import decode_segmentation, encode_crop, encode_mask

MASK = np.zeros((5, 7), np.uint8)
MASK[1:3, 2:6] = 1
COUNTS = [11, 2, 3, 2, 3, 2, 3, 2, 7]  # by columns


@pytest.mark.parametrize(
    "segmentation",
    [
        [[2, 1, 6, 1, 6, 3, 2, 3]],
        [[2, 1, 4, 1, 4, 3, 2, 3], [4, 1, 6, 1, 6, 3, 4, 3]],
        {"size": [5, 7], "counts": COUNTS},
        encode_mask(MASK)["segmentation"],
    ],
)
def test_every_kind_decodes_to_the_mask(segmentation):
    assert (decode_segmentation(segmentation, 5, 7) == MASK).all()


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ([[2, 1, 3e9, 1, 6, 3]], "polygon of other values"),
        ([[2, 1, float("nan"), 1, 6, 3]], "polygon of other values"),
        ([[2, 1, "6", 1, 6, 3]], "polygon of other values"),
        ([[2, 1, 10**400, 1, 6, 3]], "polygon of other values"),
        ({"size": [5, 7], "counts": [-1, 36]}, "no numbers of pixels"),
        ({"size": [5, 7], "counts": [1, 35]}, "RLE of 36 pixels"),
        ({"size": [5, 7], "counts": "0"}, "does not cover its image"),
        ({"size": [5, 7], "counts": "0o"}, "counts are damaged"),
        ({"size": [7, 5], "counts": COUNTS}, "RLE of size"),
        ({"size": [5, 7], "counts": None}, "counts are damaged"),
    ],
)
def test_what_pycocotools_would_read_beyond_its_memory_is_refused(segmentation, problem):
    with pytest.raises(ValueError, match=problem):
        decode_segmentation(segmentation, 5, 7)


def test_the_size_of_an_image_has_a_limit():
    with pytest.raises(ValueError, match="an object is in an image of 40000x40000 pixels"):
        decode_segmentation([[2, 1, 6, 1, 6, 3]], 40000, 40000)


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_encoded_masks_are_json_with_their_area_and_box(kind):
    found = json.loads(json.dumps(encode_mask(MASK.astype(kind))))
    assert found["area"] == 8 and found["bbox"] == [2, 1, 4, 2] and found["segmentation"]["size"] == [5, 7]
    empty = encode_mask(MASK * 0)
    assert empty["area"] == 0 and empty["bbox"] == [0, 0, 0, 0]


@pytest.mark.parametrize("box", [(0, 0, 7, 5), (2, 1, 6, 4), (0, 0, 1, 1), (6, 4, 7, 5), (3, 0, 5, 5)])
@pytest.mark.parametrize("share", [0.5, 1.1, 0.0])
def test_a_crop_is_encoded_as_the_whole_mask(box, share):
    x0, y0, x1, y1 = box
    mask = np.zeros((5, 7), bool)
    mask[y0:y1, x0:x1] = np.random.default_rng(0).random((y1 - y0, x1 - x0)) < share
    crop = encode_crop(mask[y0:y1, x0:x1], (x0, y0), (5, 7))
    whole = encode_mask(mask)
    assert {key: crop[key] for key in ("area", "bbox")} == {key: whole[key] for key in ("area", "bbox")}
    np.testing.assert_array_equal(decode_segmentation(crop["segmentation"], 5, 7), mask)
