"""The boundary-aware consistency in the mask head: by hand, absent without its fields, zero without an instance."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from s4m.config import add_s4m_config
from s4m.losses.boundary_consistency import BoundaryConsistency
from s4m.modeling.roi_heads import PseudoLabelROIHeads

SHAPE = {"p2": ShapeSpec(channels=4, stride=4)}
SIDE = 64


def build(enabled=True):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.S4M.BOUNDARY.ENABLED = enabled
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ["p2"], 2
    cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 8, 7
    cfg.MODEL.ROI_MASK_HEAD.NAME, cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = "MaskRCNNConvUpsampleHead", 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 8, 8
    torch.manual_seed(0)
    return PseudoLabelROIHeads(cfg, SHAPE).train()


def corners(count):
    """Left and top of the boxes (count, 2): three of a row, or many that overlap."""
    index = torch.arange(count)
    if count <= 3:
        return torch.stack([20 * index + 4, torch.full_like(index, 4)], dim=1)
    return torch.stack([2 * (index % 20) + 4, 3 * (index // 20) + 4], dim=1)


def labels(count, with_maps=True):
    """Triangles in boxes of 16 pixels, the teacher's shifted, SAM's nearly the same."""
    left, top = corners(count)[:, :, None, None].unbind(1)
    y, x = torch.arange(SIDE)[:, None] - top, torch.arange(SIDE) - left
    masks = (x >= 0) & (y < 16) & (x <= y)
    starts = corners(count).float()
    found = Instances((SIDE, SIDE), gt_boxes=Boxes(torch.cat([starts, starts + 16], dim=1)))
    found.gt_classes, found.gt_masks = torch.zeros(count, dtype=torch.int64), BitMasks(masks)
    found.gt_weights = torch.tensor([1.0, 0.5, 0.25]).repeat(count // 3 + 1)[:count]
    if with_maps:
        found.gt_teacher_masks = (0.9 * masks.roll(2, dims=1)).half()
        found.gt_sam_masks = (0.1 + 0.8 * masks).half()
        found.gt_refined = torch.arange(count) % 3 != 1
    return found


def losses(heads, targets):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(targets), 4, 16, 16, generator=generator).requires_grad_()
    boxes = torch.tensor([[30.0, 40, 60, 60]])
    found = [Instances((SIDE, SIDE), proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(1)) for _ in targets]
    images = ImageList(torch.zeros(len(targets), 3, SIDE, SIDE), [(SIDE, SIDE)] * len(targets))
    with EventStorage():
        return heads(images, {"p2": features}, found, targets)[1], features


@pytest.mark.parametrize("count", [1, 3, 300])
def test_is_the_weighted_loss_of_the_boxes_content(count):
    heads, target = build(), labels(count)
    heads.batch_size_per_image = 4 * 300  # a quarter may be objects
    for parameter in heads.mask_head.parameters():
        torch.nn.init.zeros_(parameter)
    found, _ = losses(heads, [target])
    places = enumerate(corners(count).tolist())
    slices = [(i, slice(y - 2, y + 18), slice(x - 2, x + 18)) for i, (x, y) in places]
    crops = [  # a box of 16 pixels in 16 cells is its pixels, with 2 more around
        torch.stack([maps[place].float() for place in slices])
        for maps in (target.gt_masks.tensor, target.gt_teacher_masks, target.gt_sam_masks)
    ]
    valid = torch.zeros(count, 20, 20, dtype=torch.bool)
    valid[:, 2:18, 2:18] = True
    each = BoundaryConsistency()(torch.zeros(count, 20, 20), *crops, target.gt_refined, valid=valid)
    torch.testing.assert_close(found["loss_boundary"], (each * target.gt_weights).mean())
    torch.testing.assert_close(found["loss_mask"], target.gt_weights.mean() * torch.tensor(2.0).log())
    assert found["loss_boundary"] > 0.1


def test_an_outline_along_the_boxes_side_counts():
    heads, target = build(), labels(1)
    heads.boundary = BoundaryConsistency(weight=0.0, edge_weight=1.0)
    for parameter in heads.mask_head.parameters():
        torch.nn.init.zeros_(parameter)
    target.gt_masks.tensor[0, 4:20, 4:20] = True  # fills its box
    target.gt_sam_masks = (0.1 + 0.8 * target.gt_masks.tensor).half()
    assert losses(heads, [target])[0]["loss_boundary"] > 0.1
    with torch.no_grad():
        heads.mask_head.predictor.bias.fill_(9.0)  # inside everywhere
    assert losses(heads, [target])[0]["loss_boundary"] < 0.01


def test_gradients_reach_mask_head_and_features():
    heads = build()
    found, features = losses(heads, [labels(3), labels(0)])
    found["loss_boundary"].backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in heads.mask_head.named_parameters())
    assert features.grad[0].abs().sum() > 0 and features.grad[1].abs().sum() == 0
    assert all(parameter.grad is None for parameter in heads.box_predictor.parameters())


@pytest.mark.parametrize(("enabled", "with_maps"), [(False, True), (True, False)])
def test_absent_where_it_is_off_or_the_labels_are_true(enabled, with_maps):
    found, _ = losses(build(enabled), [labels(3, with_maps)])
    plain, _ = losses(build(False), [labels(3, False)])
    assert found.keys() == plain.keys() == {"loss_cls", "loss_box_reg", "loss_mask"}
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value)


def test_zero_and_in_the_graph_without_an_instance():
    heads = build()
    found, _ = losses(heads, [labels(0)])
    assert found["loss_boundary"] == 0 and found["loss_boundary"].requires_grad


def test_settings_come_from_the_configuration():
    cfg = get_cfg()
    assert BoundaryConsistency.read(cfg) is None
    add_s4m_config(cfg)
    assert BoundaryConsistency.read(cfg) is None
    cfg.S4M.BOUNDARY.ENABLED = True
    assert BoundaryConsistency.read(cfg) == BoundaryConsistency()
