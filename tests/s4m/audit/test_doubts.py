"""Doubts about labels without a network that looks again."""

import numpy as np

from d2kit.audit.doubts import strange_sizes, told, total
from d2kit.coco_masks import encode_mask
from s4m.audit.doubts import DOUBTS, doubts_of


def label(left, side, **more):
    mask = np.zeros((40, 40), np.uint8)
    mask[10 : 10 + side, left : left + side] = 1
    return {"image_id": 1, "category_id": 1, **encode_mask(mask), **more}


def test_no_label_has_no_doubts():
    assert doubts_of([]).shape == (0, 4)


def test_figures_count_where_they_are_there():
    labels = [
        label(0, 4, score=0.25),
        label(5, 4, score=0.25, confidence=0.75, agreement=0.5),
        label(10, 4, confidence=None, agreement=None),
        label(15, 4),
    ]
    assert doubts_of(labels)[:, :2].tolist() == [[0.75, 0], [0.25, 0.5], [0, 0], [0, 0]]


def test_an_overlap_is_the_share_of_the_own_mask_in_one_neighbor():
    labels = [label(0, 4), label(3, 4), label(20, 4), {**label(0, 4), "image_id": 2}]
    assert doubts_of(labels)[:, 3].tolist() == [0.25, 0.25, 0, 0]


def test_a_size_is_strange_by_the_spread_of_its_class():
    assert not strange_sizes([1, 1000]).any()  # Two labels tell nothing.
    strange = strange_sizes([100] * 10 + [105, 95, 10_000])
    assert strange[-1] == 1 and not strange[:-1].any()


def test_doubts_add_up_and_only_strong_ones_are_told():
    assert total(np.array([[0, 0], [1, 0.3], [0.5, 0.5]])).tolist() == [0, 1, 0.75]
    assert told([0.3, 0.1, 0.9, 0.25], DOUBTS) == (DOUBTS[2], DOUBTS[0], DOUBTS[3])
