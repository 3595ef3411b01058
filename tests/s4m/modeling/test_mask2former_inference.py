"""From logits to detections, against values worked out by hand."""

import pytest
import torch

from s4m.modeling.mask2former_inference import (
    best_classes,
    detections,
    predicted_objects,
    resize_logits,
    soft_predictions,
)

# query 0 is most likely of class 0, query 1 of class 1, query 2 is no object
PROBABILITIES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.05, 0.7]])


def ramp(height, width, scale_y, scale_x):
    """Where each cell's center lies, as 1000 y + x in pixels: bilinear interpolation keeps it inside."""
    y, x = (torch.arange(height) + 0.5) * scale_y, (torch.arange(width) + 0.5) * scale_x
    return y, x, 1000 * y[:, None] + x


def test_padding_is_cut_off_before_the_second_resize():
    logits = ramp(16, 24, 4, 4)[2][None]  # of a 64 x 96 input, with an image of 40 x 80 at its top left
    found = resize_logits(logits, (64, 96), (40, 80), (61, 121))
    assert found.shape == (1, 61, 121)
    y, x, _ = ramp(61, 121, 40 / 61, 80 / 121)
    # beyond the image's last pixel centers there is nothing to interpolate with: no cell of the padding
    wanted = 1000 * y.clamp(max=39.5)[:, None] + x.clamp(max=79.5)
    torch.testing.assert_close(found[0, 4:, 4:], wanted[4:, 4:], rtol=0, atol=0.02)


def test_mask_of_the_inputs_own_size_is_resized_once():
    found = resize_logits(ramp(16, 24, 4, 4)[2][None].repeat(2, 1, 1), (64, 96), (40, 80), (40, 80))
    assert found.shape == (2, 40, 80)
    torch.testing.assert_close(found[1, 2:, 2:], ramp(40, 80, 1, 1)[2][2:, 2:], rtol=0, atol=0.02)


@pytest.mark.parametrize("count", [0, 1])
def test_resized_logits_have_full_precision(count):
    found = resize_logits(torch.ones(count, 16, 24, dtype=torch.float16), (64, 96), (40, 80), (61, 121))
    assert found.shape == (count, 61, 121) and found.dtype == torch.float32 and (found == 1).all()


def test_best_pairs_of_query_and_class():
    queries, classes, scores = best_classes(PROBABILITIES.log(), 4)
    assert queries.tolist() == [1, 0, 0, 2] and classes.tolist() == [1, 0, 1, 0]
    torch.testing.assert_close(scores, torch.tensor([0.6, 0.5, 0.3, 0.25]))
    queries, classes, _ = best_classes(PROBABILITIES.log(), 100)
    assert sorted(zip(queries.tolist(), classes.tolist(), strict=True)) == [(q, k) for q in range(3) for k in range(2)]


def test_queries_that_are_most_likely_no_object_are_left_out():
    queries, classes, scores = predicted_objects(PROBABILITIES.log())
    assert queries.tolist() == [0, 1] and classes.tolist() == [0, 1]
    torch.testing.assert_close(scores, torch.tensor([0.5, 0.6]))
    assert all(len(part) == 0 for part in predicted_objects(PROBABILITIES[2:].log()))


def test_score_is_the_class_probability_times_the_masks_quality():
    masks = torch.full((3, 4, 6), 0.3)  # what is outside counts for nothing
    masks[0, 1, 2], masks[0, 2, 4] = 0.9, 0.6
    masks[1] = 0.5  # half a probability is outside: an empty mask
    masks[2, 0, 0] = 0.8
    found = detections(masks.logit(), torch.tensor([4, 5, 6]), torch.tensor([0.8, 0.7, 0.5]))
    assert found.image_size == (4, 6) and found.pred_classes.tolist() == [4, 6]
    torch.testing.assert_close(found.scores, torch.tensor([0.8 * 0.75, 0.5 * 0.8]))
    assert found.pred_boxes.tensor.tolist() == [[2, 1, 5, 3], [0, 0, 1, 1]]
    assert found.pred_masks.nonzero().tolist() == [[0, 1, 2], [0, 2, 4], [1, 0, 0]]
    assert found.pred_masks.dtype == torch.bool


@pytest.mark.parametrize("count", [0, 2])
def test_image_without_a_mask_has_no_detection(count):
    found = detections(torch.full((count, 4, 6), -1.0), torch.zeros(count, dtype=torch.int64), torch.ones(count))
    assert len(found) == 0 and found.image_size == (4, 6)
    assert found.pred_masks.shape == (0, 4, 6) and found.pred_boxes.tensor.shape == (0, 4)
    assert found.scores.shape == found.pred_classes.shape == (0,)


def test_predictions_for_pseudo_labels_keep_the_class_probability():
    masks = torch.full((2, 4, 6), 0.3)
    masks[0, 1, 2:4] = 0.9
    found = soft_predictions(masks.logit(), torch.tensor([4, 5]), torch.tensor([0.8, 0.7]))
    torch.testing.assert_close(found.soft_masks, masks)
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.7]))
    assert found.pred_classes.tolist() == [4, 5] and found.pred_boxes.tensor[0].tolist() == [2, 1, 4, 2]
    none = soft_predictions(torch.zeros(0, 4, 6), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert len(none) == 0 and none.soft_masks.shape == (0, 4, 6)
