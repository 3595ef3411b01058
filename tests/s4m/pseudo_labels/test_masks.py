"""Overlaps of masks are counts of pixels, in half precision too."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeTransform, TransformList
from detectron2.structures import BitMasks, Instances, PolygonMasks

from s4m.pseudo_labels.masks import class_iou, intersections, mask_iou, unjudged
from s4m.pseudo_labels.matching import MatchingThresholds, match
from s4m.pseudo_labels.view_transform import ViewTransform


def square(side, size=512):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, :side, :side] = True
    return mask


def test_overlaps_by_hand():
    assert intersections(square(3), torch.cat([square(2), square(4)])).tolist() == [[4.0, 9.0]]
    found = mask_iou(square(3), torch.cat([square(2), square(4), square(0)]))
    torch.testing.assert_close(found, torch.tensor([[4 / 9, 9 / 16, 0.0]]))
    assert mask_iou(square(0), square(0)).tolist() == [[0.0]]


def annotated(kind, classes):
    """An object in the rows 0 to 3 of 8 x 8 pixels and a region in the rows 2 to 7, as masks of either kind."""
    if kind == "polygons":
        boxes = [[np.array([0.0, y0, 8, y0, 8, y1, 0, y1])] for y0, y1 in ((0, 4), (2, 8))]
        masks = PolygonMasks(boxes[: len(classes)])
    else:
        masks = torch.zeros(2, 8, 8, dtype=torch.bool)
        masks[0, :4] = masks[1, 2:] = True
        masks = BitMasks(masks[: len(classes)])
    return Instances((8, 8), gt_classes=torch.tensor(classes, dtype=torch.int64), gt_masks=masks)


@pytest.mark.parametrize("kind", ["bits", "polygons"])
@pytest.mark.parametrize("crowd", [False, True])
def test_what_cannot_be_judged_by_hand(kind, crowd):
    rows = [(0, 4), (1, 5), (1, 3), (1, 4), (4, 8), (0, 0)]
    masks = torch.zeros(len(rows), 8, 8, dtype=torch.bool)
    for mask, (first, last) in zip(masks, rows, strict=True):
        mask[first:last] = True
    truth = annotated(kind, [0] if crowd else [0, -1])
    crowds = annotated(kind, [3, 2])[1:] if crowd else None
    # of the object with an IoU of 1 and 3/5; half inside; of it with 3/4; inside; empty
    for own, expected in ((0, [False] * 4 + [True, False]), (2, [False, True, False, True, True, False])):
        classes = torch.full((len(rows),), own)
        found = unjudged(masks, classes, class_iou(masks, classes, truth), truth, crowds)
        assert found.tolist() == (expected if own == 2 or not crowd else [False] * 6), own


@pytest.mark.parametrize("count", [0, 1, 300])
def test_judging_any_number(count):
    masks, classes = torch.zeros(count, 8, 8, dtype=torch.bool), torch.zeros(count, dtype=torch.int64)
    masks[::2, 5:] = True
    truth = annotated("bits", [1, -1])
    found = unjudged(masks, classes, class_iou(masks, classes, truth), truth, truth[:0])
    assert found.tolist() == [index % 2 == 0 for index in range(count)]
    nothing = Instances((8, 8), gt_classes=torch.zeros(0, dtype=torch.int64))  # as Detectron2's mapper gives it
    assert not unjudged(masks, classes, class_iou(masks, classes, nothing), nothing).any()


@pytest.mark.parametrize("side", [210, 400])
def test_large_masks_under_autocast(side):
    with torch.autocast("cpu", dtype=torch.float16):
        assert mask_iou(square(side), square(side)).tolist() == [[1.0]]
        result = match(square(side), square(side)[None], torch.ones(1, 1), MatchingThresholds())
    assert result.parts == [[0]] and result.agreement.tolist() == [1.0]


def test_places_under_autocast():
    view = ViewTransform(TransformList([ResizeTransform(900, 1400, 600, 933)]), (900, 1400), (600, 933))
    points = torch.tensor([[870.0, 533.0]])
    expected = view.points_to_source(points)
    mask = torch.zeros(1, 900, 1400)
    mask[0, 450:, 700:] = 1
    seen = view.masks_to_view(mask)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(view.points_to_source(points), expected)
        assert torch.equal(view.masks_to_view(mask), seen)
