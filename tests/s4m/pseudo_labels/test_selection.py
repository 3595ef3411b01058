"""Selection keeps exactly what the method's three conditions keep."""

import pytest
import torch
from detectron2.structures import BitMasks

from s4m.pseudo_labels.masks import tight_boxes
from s4m.pseudo_labels.selection import select


def flat(values):
    """One 3 x 4 soft mask for each list of its first pixels."""
    masks = torch.zeros(len(values), 3, 4)
    for mask, pixels in zip(masks, values, strict=True):
        mask.view(-1)[: len(pixels)] = torch.tensor(pixels)
    return masks


def test_conditions_are_exclusive(make_predictions):
    soft = flat([[0.9] * 6, [0.9] * 6, [1.0] * 5, [1.0] * 6, [0.5] * 12, [0.51] * 12])
    predictions = make_predictions(soft, scores=[0.7, 0.71, 0.99, 0.99, 0.99, 0.99], classes=[0, 1, 2, 3, 4, 5])
    selected = select(predictions, score=0.7, min_pixels=5.0)
    assert selected.pred_classes.tolist() == [1, 3, 5]
    assert torch.equal(selected.pred_masks, soft[[1, 3, 5]] > 0.5)
    assert selected.pred_masks.dtype == torch.bool
    assert not predictions.has("pred_masks")


def test_a_threshold_for_each_prediction(make_predictions):
    predictions = make_predictions(flat([[1.0] * 8] * 3), scores=[0.5, 0.6, 0.8], classes=[0, 1, 2])
    selected = select(predictions, score=torch.tensor([0.4, 0.7, 0.7]), min_pixels=5.0)
    assert selected.pred_classes.tolist() == [0, 2]


@pytest.mark.parametrize("count", [0, 1, 300])
def test_counts(make_predictions, count):
    predictions = make_predictions(torch.full((count, 3, 4), 0.8))
    selected = select(predictions, score=0.7, min_pixels=5.0)
    assert len(selected) == count
    assert selected.pred_masks.shape == (count, 3, 4)
    none = select(predictions, score=0.95, min_pixels=5.0)
    assert len(none) == 0
    assert none.pred_masks.shape == (0, 3, 4)


def test_half_precision_masks_do_not_overflow(make_predictions):
    predictions = make_predictions(torch.ones(1, 300, 300, dtype=torch.float16))
    assert len(select(predictions, score=0.7, min_pixels=65520.0)) == 1


def test_boxes_equal_detectron2s():
    masks = torch.rand(50, 17, 23, generator=torch.Generator().manual_seed(0)) > 0.97
    masks[7] = False
    masks[8] = True
    assert torch.equal(tight_boxes(masks), BitMasks(masks).get_bounding_boxes().tensor)
    assert tight_boxes(masks[:0]).shape == (0, 4)
