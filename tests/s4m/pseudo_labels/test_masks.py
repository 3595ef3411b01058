"""Overlaps of masks are counts of pixels, in half precision too."""

import pytest
import torch
from detectron2.data.transforms import ResizeTransform, TransformList

from s4m.pseudo_labels.masks import intersections, mask_iou
from s4m.pseudo_labels.matching import Guards, match
from s4m.sam.embedding_cache import ViewTransform


def square(side, size=512):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, :side, :side] = True
    return mask


def test_overlaps_by_hand():
    assert intersections(square(3), torch.cat([square(2), square(4)])).tolist() == [[4.0, 9.0]]
    found = mask_iou(square(3), torch.cat([square(2), square(4), square(0)]))
    torch.testing.assert_close(found, torch.tensor([[4 / 9, 9 / 16, 0.0]]))
    assert mask_iou(square(0), square(0)).tolist() == [[0.0]]


@pytest.mark.parametrize("side", [210, 400])
def test_large_masks_under_autocast(side):
    with torch.autocast("cpu", dtype=torch.float16):
        assert mask_iou(square(side), square(side)).tolist() == [[1.0]]
        result = match(square(side), square(side)[None], torch.ones(1, 1), Guards())
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
