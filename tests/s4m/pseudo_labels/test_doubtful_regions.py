"""Which predictions are too unsure for a pseudo-label and too sure for background."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from s4m.pseudo_labels.calibration import ConfidenceCalibration


@pytest.mark.parametrize("count", [0, 1, 300])
def test_doubtful_regions_of_any_number_by_hand(count):
    calibration = ConfidenceCalibration(num_classes=2, score=0.7, low=0.3)
    index = torch.arange(count)
    corners = torch.stack([10 * (index % 20), 10 * (index // 20)], dim=1)
    boxes = torch.cat([corners, corners + 6], dim=1)
    kinds = [(0.5, True), (0.9, False), (0.2, False), (0.7, True), (0.3, False), (0.6, False)]
    found = Instances((150, 200), pred_boxes=Boxes(boxes.float()), pred_classes=index % 2)
    found.scores = torch.tensor([kind[0] for kind in kinds]).repeat(count // 6 + 1)[:count]
    x, y = torch.arange(200), torch.arange(150)[:, None]
    left, top = corners[:, :, None, None].unbind(1)
    found.soft_masks = 0.9 * ((x >= left) & (x < left + 6) & (y >= top) & (y < top + 6))
    # a pseudo-label beside each sixth one, which it explains with an IoU of 1/2 and not with one of 16/56
    near = found[index % 6 == 5]
    shift = torch.tensor([2.0, 0, 2, 0]) * (torch.arange(len(near)) % 2)[:, None] + torch.tensor([0.0, 2, 0, 2])
    labels = Instances((150, 200), pred_boxes=Boxes(near.pred_boxes.tensor + shift))
    unsure = calibration.doubtful(found, labels, 5.0)
    expected = torch.tensor([kind[1] for kind in kinds]).repeat(count // 6 + 1)[:count] | (index % 12 == 11)
    assert unsure.pred_boxes.tensor.tolist() == boxes[expected].tolist()
    assert (unsure.pred_classes == -1).all() and len(unsure.pred_masks) == int(expected.sum())
