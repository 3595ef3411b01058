"""COCO's segmentations of each kind against a mask drawn by hand."""

import json

import numpy as np
import pytest

from d2kit.coco_masks import decode_segmentation, encode_mask

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


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_encoded_masks_are_json_with_their_area_and_box(kind):
    found = json.loads(json.dumps(encode_mask(MASK.astype(kind))))
    assert found["area"] == 8 and found["bbox"] == [2, 1, 4, 2] and found["segmentation"]["size"] == [5, 7]
    empty = encode_mask(MASK * 0)
    assert empty["area"] == 0 and empty["bbox"] == [0, 0, 0, 0]
