"""Weighted ROI heads equal Detectron2's without the optional fields; weights, ignored regions, soft masks by hand."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from s4m.modeling.roi_heads import PseudoLabelROIHeads, inside_ignored, mask_targets
from s4m.modeling.rpn import PseudoLabelRPN

SHAPE = {"p2": ShapeSpec(channels=8, stride=4)}


def small_cfg():
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.IN_FEATURES = cfg.MODEL.RPN.IN_FEATURES = ["p2"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 16, 7
    cfg.MODEL.ROI_MASK_HEAD.NAME, cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = "MaskRCNNConvUpsampleHead", 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 8, 7
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16]]
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 32
    return cfg


def labels(boxes, classes, size=(64, 64), **fields):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    classes = torch.as_tensor(classes, dtype=torch.int64)
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes, gt_masks=BitMasks(masks), **fields)


def proposals(boxes, size=(64, 64)):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes)))


def heads_pair(**overrides):
    cfg = small_cfg()
    for key, value in overrides.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    torch.manual_seed(0)
    ours = PseudoLabelROIHeads(cfg, SHAPE)
    theirs = StandardROIHeads(cfg, SHAPE)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def run(heads, targets, found):
    torch.manual_seed(1)
    features = {"p2": torch.randn(len(targets), 8, 16, 16)}
    images = ImageList(torch.zeros(len(targets), 3, 64, 64), [(64, 64)] * len(targets))
    torch.manual_seed(2)
    with EventStorage():
        return heads.train()(images, features, found, targets)[1]


BOXES = [[4, 4, 28, 28], [30, 30, 60, 60]]
NEAR = [[5, 4, 29, 28], [28, 30, 60, 58], [0, 40, 10, 63], [40, 2, 60, 12], [3, 3, 30, 27]]


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_equals_detectron2_without_optional_fields(kind, agnostic):
    ours, theirs = heads_pair(
        MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_TYPE=kind,
        MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG=agnostic,
        MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=agnostic,
    )
    targets = [labels(BOXES, [0, 2]), labels([], [])]
    a = run(ours, targets, [proposals(NEAR), proposals(NEAR)])
    b = run(theirs, targets, [proposals(NEAR), proposals(NEAR)])
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key])
        assert a[key] > 0


def test_weights_of_300_instances_are_those_of_their_boxes():
    ours, _ = heads_pair(MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE=1200, MODEL__ROI_HEADS__POSITIVE_FRACTION=1.0)
    for parameter in [*ours.box_predictor.parameters(), *ours.mask_head.parameters()]:
        torch.nn.init.zeros_(parameter)
    index = torch.arange(300)
    corners = torch.stack([2 * (index % 20), 3 * (index // 20)], dim=1).float()
    boxes = torch.cat([corners, corners + torch.tensor([20.0, 16.0])], dim=1)
    weights = torch.rand(300, generator=torch.Generator().manual_seed(0))
    target = labels(boxes, index % 3, gt_weights=weights)
    shifted = boxes + torch.tensor([0.5, 0, 0, 0])  # nearest to its own
    losses = run(ours, [target], [proposals(shifted)])
    twice = 2 * weights.sum() / 600  # the shifted box and the box itself
    torch.testing.assert_close(losses["loss_cls"], twice * torch.tensor(4.0).log())
    torch.testing.assert_close(losses["loss_mask"], twice * torch.tensor(2.0).log())
    # of 19.5 pixels, a quarter of a pixel to the left and 20 / 19.5 times as wide; Detectron2's weights are 10 and 5
    each = 10 * 0.25 / 19.5 + 5 * torch.tensor(20 / 19.5).log()
    torch.testing.assert_close(losses["loss_box_reg"], weights.sum() * each / 600)


def test_no_label_at_all_gives_zero_box_and_mask_loss():
    losses = run(heads_pair()[0], [labels([], [])], [proposals(NEAR)])
    assert losses["loss_box_reg"] == 0 and losses["loss_mask"] == 0 and losses["loss_cls"] > 0
    sum(losses.values()).backward()


def test_weights_scale_each_instance():
    ours, _ = heads_pair()

    def losses(weights):
        return run(ours, [labels(BOXES, [0, 2], gt_weights=torch.tensor(weights))], [proposals(NEAR)])

    none, first, second, both = losses([0.0, 0.0]), losses([1.0, 0.0]), losses([0.0, 1.0]), losses([1.0, 1.0])
    half = losses([0.5, 0.5])
    assert none["loss_mask"] == 0 and none["loss_box_reg"] == 0 and none["loss_cls"] > 0
    for key in both:
        torch.testing.assert_close(first[key] + second[key] - none[key], both[key])
        torch.testing.assert_close(half[key], (none[key] + both[key]) / 2)


def test_ignored_region_is_neither_object_nor_background():
    ours, _ = heads_pair()
    inside, outside = [32, 32, 50, 50], [2, 30, 20, 60]
    target = labels([BOXES[0], [30, 30, 62, 62]], [0, -1])
    torch.manual_seed(0)
    with EventStorage():
        sampled = ours.label_and_sample_proposals([proposals([inside, outside, NEAR[0]])], [target])[0]
    pairs = zip(sampled.proposal_boxes, sampled.gt_classes, strict=True)
    by_box = {tuple(box.int().tolist()): label.item() for box, label in pairs}
    assert by_box == {tuple(inside): -1, tuple(outside): 3, tuple(NEAR[0]): 0, tuple(BOXES[0]): 0}
    with_region = run(ours, [target], [proposals([NEAR[0], inside])])
    without = run(ours, [labels([BOXES[0]], [0])], [proposals([NEAR[0]])])
    for key in without:
        torch.testing.assert_close(with_region[key], without[key])


def test_inside_ignored_by_share_of_own_area():
    ignored = Boxes(torch.tensor([[0.0, 0, 10, 10]]))
    boxes = Boxes(torch.tensor([[0.0, 0, 4, 4], [8.0, 0, 12, 10], [7.0, 0, 12, 10], [20.0, 20, 30, 30]]))
    assert inside_ignored(boxes, ignored).tolist() == [True, False, True, False]
    assert inside_ignored(boxes, Boxes(torch.zeros(0, 4))).tolist() == [False] * 4
    assert inside_ignored(Boxes(torch.zeros(0, 4)), ignored).shape == (0,)


def test_soft_mask_targets_and_loss():
    target = labels(BOXES, [0, 2])
    found = proposals([[30, 30, 60, 60], [4, 4, 28, 28], [16, 4, 40, 28]])
    found.gt_index = torch.tensor([1, 0, 0])
    hard = mask_targets(found, target, 8)
    torch.testing.assert_close(hard[:2], torch.ones(2, 8, 8))
    torch.testing.assert_close(hard[2, :, :4], torch.ones(8, 4))
    assert hard[2, :, 5:].sum() == 0
    target.gt_soft_masks = 0.3 * target.gt_masks.tensor.float()
    torch.testing.assert_close(mask_targets(found, target, 8)[:2], torch.full((2, 8, 8), 0.3), atol=0.01, rtol=0)

    ours, _ = heads_pair()
    for parameter in ours.mask_head.parameters():
        torch.nn.init.zeros_(parameter)
    # Logits are all zero: the loss is log 2 whatever the target, and its gradient is (1/2 - target).
    losses = run(ours, [target], [proposals(NEAR)])
    torch.testing.assert_close(losses["loss_mask"].item(), torch.tensor(2.0).log().item())
    losses["loss_mask"].backward()
    gradient = ours.mask_head.predictor.bias.grad
    assert (gradient[[0, 2]] > 0).all() and gradient[1] == 0


def test_mask_loss_by_hand():
    ours, _ = heads_pair()
    for parameter in ours.mask_head.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        ours.mask_head.predictor.bias.copy_(torch.tensor([1.0, 0.0, -2.0]))
    target = labels(BOXES, [0, 2], gt_weights=torch.tensor([0.25, 1.0]))
    loss = run(ours, [target], [proposals([])])["loss_mask"]
    one = torch.ones(())
    expected = (0.25 * F.softplus(-one) + F.softplus(2 * one)) / 2
    torch.testing.assert_close(loss, expected)


def test_cells_of_ignored_regions_are_no_background_of_a_mask():
    ours, _ = heads_pair()
    for parameter in ours.mask_head.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        ours.mask_head.predictor.bias.fill_(1.0)
    target = labels([BOXES[0], [16, 4, 28, 28]], [0, -1])
    target.gt_masks.tensor[0, :, 16:] = False  # the left half of its box; the ignored region is the right one
    one = torch.ones(())
    loss = run(ours, [target], [proposals([])])["loss_mask"]
    torch.testing.assert_close(loss, F.softplus(-one))
    plain = run(ours, [target[:1]], [proposals([])])["loss_mask"]
    torch.testing.assert_close(plain, (F.softplus(-one) + F.softplus(one)) / 2, rtol=0.1, atol=0)
    target.gt_masks.tensor[0, :, 16:28] = target.gt_masks.tensor[1, :, 16:28]  # what is the object's own counts
    assert run(ours, [target], [proposals([])])["loss_mask"] == run(ours, [target[:1]], [proposals([])])["loss_mask"]


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_rpn_weights_scale_what_the_anchors_of_each_instance_cost(kind):
    cfg = small_cfg()
    cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = kind
    torch.manual_seed(0)
    rpn = PseudoLabelRPN(cfg, SHAPE).train()
    features, images = {"p2": torch.randn(2, 8, 16, 16)}, ImageList(torch.zeros(2, 3, 64, 64), [(64, 64)] * 2)

    def losses(*weights):
        torch.manual_seed(1)
        with EventStorage():
            target = labels(BOXES, [0, 2], gt_weights=torch.tensor(weights))
            return rpn(images, features, [target, labels([], [])])[1]

    none, first, second, both = losses(0.0, 0.0), losses(0.999, 0.0), losses(0.0, 0.999), losses(0.999, 0.999)
    assert none["loss_rpn_loc"] == 0 and none["loss_rpn_cls"] > 0  # the background's
    for key, plain in losses(1.0, 1.0).items():
        torch.testing.assert_close(none[key] + (both[key] - none[key]) / 0.999, plain)
        torch.testing.assert_close(first[key] + second[key] - none[key], both[key])
        assert first[key] > none[key] < second[key]


@pytest.mark.parametrize("count", [0, 1, 300])
def test_rpn_looks_up_the_weight_of_each_anchors_instance(count):
    cfg = small_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = [[6]], 4096
    rpn = PseudoLabelRPN(cfg, SHAPE).train()
    index = torch.arange(count)
    corners = torch.stack([8 * (index % 20), 8 * (index // 20)], dim=1).float()
    boxes = torch.cat([corners, corners + torch.tensor([6.0, 5.0])], dim=1)
    weights = torch.rand(count, generator=torch.Generator().manual_seed(0))
    target = labels(boxes, [0] * count, (128, 160), gt_weights=weights)
    anchors = rpn.anchor_generator([torch.zeros(1, 8, 32, 40)])
    (found,), (matched,) = rpn.label_and_sample_anchors(anchors, [target])
    positive = found == 1
    expected = torch.ones(len(found))
    if count:
        overlap = pairwise_iou(target.gt_boxes, Boxes.cat(anchors))
        expected[positive] = weights[overlap.argmax(dim=0)[positive]]
        assert set(weights.tolist()) <= set(matched.weights[positive].tolist())  # none is without an anchor
    assert torch.equal(matched.weights, expected) and bool(positive.any()) == (count > 0)


def test_mask_probabilities_are_told_apart_under_autocast():
    ours, _ = heads_pair()
    for parameter in ours.mask_head.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        ours.mask_head.predictor.bias.copy_(torch.tensor([9.0, 12.0, 0.0]))
    found = Instances((64, 64), pred_boxes=Boxes(torch.tensor(BOXES).float()), pred_classes=torch.tensor([0, 1]))
    with torch.autocast("cpu", dtype=torch.float16):
        masks = ours.eval()._forward_mask({"p2": torch.randn(1, 8, 16, 16)}, [found])[0].pred_masks
    torch.testing.assert_close(masks[:, 0, 0, 0], torch.tensor([9.0, 12.0]).sigmoid())
    assert masks.dtype == torch.float32 and masks.max() < 1


def test_rpn_equals_detectron2_and_ignores_regions():
    cfg = small_cfg()
    torch.manual_seed(0)
    ours, theirs = PseudoLabelRPN(cfg, SHAPE).train(), RPN(cfg, SHAPE).train()
    theirs.load_state_dict(ours.state_dict())
    features = {"p2": torch.randn(1, 8, 16, 16)}
    images = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])

    def losses(rpn, target):
        torch.manual_seed(1)
        with EventStorage():
            return rpn(images, features, [target])[1]

    a, b = losses(ours, labels(BOXES, [0, 2])), losses(theirs, labels(BOXES, [0, 2]))
    for key in b:
        torch.testing.assert_close(a[key], b[key])
    anchors = ours.anchor_generator([features["p2"]])
    region = labels([BOXES[0], [32, 0, 64, 64]], [1, -1])
    torch.manual_seed(1)
    kept, _ = ours.label_and_sample_anchors(anchors, [region])
    center = Boxes.cat(anchors).get_centers()
    assert not ((kept[0] == 0) & (center[:, 0] > 48)).any()
    assert (kept[0] == 1).any() and ((kept[0] == 0) & (center[:, 0] < 24)).any()


@pytest.mark.parametrize("key", ["USE_SIGMOID_CE", "BBOX_REG_LOSS_TYPE"])
def test_what_is_not_supported_is_named(key):
    cfg = small_cfg()
    cfg.MODEL.ROI_BOX_HEAD[key] = True if key == "USE_SIGMOID_CE" else "diou"
    with pytest.raises(ValueError, match=key):
        PseudoLabelROIHeads(cfg, SHAPE)
