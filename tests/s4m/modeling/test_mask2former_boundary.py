"""Objects in frames of their own: whole-image masks get the loss that a mask head would."""

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from transformers import Mask2FormerConfig

from s4m.losses.boundary_consistency import BoundaryConsistency
from s4m.modeling.mask2former_boundary import BoundaryTargets, boundary_losses, object_crops
from s4m.modeling.mask2former_loss import PseudoLabelMask2FormerLoss, to_mask_targets

SIZE = (96, 128)


def labels(boxes, scale=1):
    """Objects that fill the left half of their boxes."""
    masks = torch.zeros(len(boxes), *(scale * side for side in SIZE), dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[scale * y0 : scale * y1, scale * x0 : scale * (x0 + x1) // 2] = True
    found = Instances(tuple(masks.shape[1:]), gt_masks=BitMasks(masks))
    found.gt_boxes = Boxes(scale * torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.gt_teacher_masks, found.gt_sam_masks = masks.half(), masks.half()
    found.gt_refined = torch.ones(len(boxes), dtype=torch.bool)
    return found


def test_a_crop_is_the_frames_content():
    ramp = torch.arange(SIZE[1]).expand(2, 1, *SIZE)
    crops = object_crops(ramp, torch.tensor([[10.0, 20, 38, 48], [0, 0, 56, 28]]))
    torch.testing.assert_close(crops[0, 0, 5], 10.0 + torch.arange(28))
    torch.testing.assert_close(crops[1, 0, 5], 0.5 + 2.0 * torch.arange(28))
    coarse = object_crops(ramp[..., ::4, ::4], torch.tensor([[16.0, 16, 72, 72]] * 2), scale=0.25)
    assert coarse.shape == (2, 1, 28, 28) and (coarse[0, 0, 0].diff() > 0).all()


def test_frames_hold_the_object_with_a_margin_within_the_image():
    targets = BoundaryTargets.of(labels([(40, 40, 60, 80), (0, 0, 16, 16)]))
    assert targets.boxes.tolist() == [[35, 30, 65, 90], [0, 0, 20, 20]]
    assert targets.maps.shape == (2, 3, 28, 28)
    assert 0.2 < targets.maps[0, 0].mean() < 0.25 and targets.maps[0, 0, :, 20:].sum() == 0


def test_the_size_of_the_object_does_not_change_the_loss():
    box, consistency = [(16, 24, 48, 56)], BoundaryConsistency()
    found = []
    for scale in (1, 2):
        target = labels(box, scale)
        logits = 8 * target.gt_masks.tensor.roll(4 * scale, dims=2).float() - 4
        rows = torch.tensor([0])
        found.append(boundary_losses(consistency, logits, BoundaryTargets.of(target), rows, 1.0))
    torch.testing.assert_close(*found, rtol=0.1, atol=0)
    assert found[0] > 0.3


def test_the_pseudo_mask_itself_costs_little_and_gradients_stay_in_the_frame():
    target = labels([(16, 24, 48, 56), (70, 10, 100, 50)])
    logits = (8.0 * target.gt_masks.tensor - 4)[[1, 0]].requires_grad_()
    rows, targets = torch.tensor([1, 0]), BoundaryTargets.of(target)
    exact = boundary_losses(BoundaryConsistency(), logits, targets, rows, 1.0)
    swapped = boundary_losses(BoundaryConsistency(), logits, targets, rows.flip(0), 1.0)
    assert (exact < 0.2).all() and (swapped > 5 * exact).all()  # crops blend pixels at the outline
    (gradient,) = torch.autograd.grad(exact[1], logits)
    assert gradient[1, 24:56, 16:48].abs().sum() > 0 and gradient[0].abs().sum() == 0
    assert gradient[1, :, 60:].abs().sum() == gradient[1, 70:].abs().sum() == 0


def test_ignored_regions_that_are_not_the_objects_own_do_not_count():
    target = labels([(16, 24, 48, 56)])  # fills the left half, 16 to 32
    ignored = torch.zeros(SIZE, dtype=torch.bool)
    ignored[:, 24:44] = True
    targets = BoundaryTargets.of(target, ignored)
    columns = targets.valid[0, 14]  # 28 cells from column 8 to 56
    assert columns[:14].all() and not columns[15:20].any() and columns[22:].all()
    logits = (8.0 * target.gt_masks.tensor - 4).requires_grad_()
    loss = boundary_losses(BoundaryConsistency(), logits, targets, torch.tensor([0]), 1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient[0, 30:50, 35:42].abs().sum() == 0 and gradient[0, 30:50, 10:22].abs().sum() > 0


@pytest.mark.parametrize("count", [0, 300])
def test_none_and_many(count):
    target = labels([(16, 24, 48, 56)] * count)
    logits = torch.zeros(count, 24, 32, requires_grad=True)
    rows = torch.arange(count)
    losses = boundary_losses(BoundaryConsistency(), logits, BoundaryTargets.of(target), rows, 0.25)
    losses.sum().backward()
    assert losses.shape == (count,) and logits.grad.isfinite().all()


def test_true_labels_have_no_targets():
    target = labels([(16, 24, 48, 56)])
    target.remove("gt_teacher_masks")
    assert BoundaryTargets.of(target) is None


def test_loss_of_matched_queries_on_the_last_layer_alone():
    torch.manual_seed(0)  # Queries are matched by random points.
    config = Mask2FormerConfig(num_labels=2, train_num_points=32)
    criterion = PseudoLabelMask2FormerLoss(config, BoundaryConsistency())
    target = labels([(16, 24, 48, 56), (70, 10, 100, 50)])
    target.gt_classes, target.gt_weights = torch.tensor([0, 1]), torch.tensor([1.0, 0.5])
    classes = torch.zeros(1, 3, 3)
    classes[0, 1, 0] = classes[0, 2, 1] = 9.0
    masks = torch.full((1, 3, 24, 32), -4.0)
    masks[0, 1:] += 8 * target.gt_masks.tensor[:, ::4, ::4]
    masks.requires_grad_()
    targets = [to_mask_targets(target, SIZE)]
    losses = criterion([classes, classes], [masks.detach().flip(1), masks], targets)
    each = boundary_losses(BoundaryConsistency(), masks[0, 1:], targets[0].boundary, torch.tensor([0, 1]), 0.25)
    torch.testing.assert_close(losses["loss_boundary"], config.mask_weight * (each * target.gt_weights).sum() / 2)
    (gradient,) = torch.autograd.grad(losses["loss_boundary"], masks)
    assert gradient[0, 0].abs().sum() == 0 and (gradient[0, 1:].abs().sum(dim=(1, 2)) > 0).all()
    nothing = criterion([classes], [masks], [to_mask_targets(target[:0], SIZE)])["loss_boundary"]
    assert nothing == 0 and nothing.requires_grad
    target.remove("gt_teacher_masks")
    assert "loss_boundary" not in criterion([classes], [masks], [to_mask_targets(target, SIZE)])
