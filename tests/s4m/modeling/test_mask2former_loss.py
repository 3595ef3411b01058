"""The Mask2Former criterion: equal to transformers' own, and what weights, ignored regions and soft masks change."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import BitMasks, Instances
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from s4m.modeling.mask2former_loss import PseudoLabelMask2FormerLoss, inside_ignored, to_mask_targets

CONFIG = Mask2FormerConfig(num_labels=3, train_num_points=40)
SIZE, QUERIES = (24, 32), 30
TERMS = {"loss_class": "loss_cross_entropy", "loss_mask": "loss_mask", "loss_dice": "loss_dice"}


def truth(classes, seed=0, **fields):
    """Instances with random rectangles as masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(len(classes), *SIZE, dtype=torch.bool)
    for mask in masks:
        y, x = (int(torch.randint(side // 2, (1,), generator=generator)) for side in SIZE)
        mask[y : y + 10, x : x + 12] = True
    return Instances(SIZE, gt_classes=torch.tensor(classes, dtype=torch.int64), gt_masks=BitMasks(masks), **fields)


def logits(batch=2, layers=3, seed=1):
    """Class and mask logits of each layer, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    classes = [torch.randn(batch, QUERIES, 4, generator=generator).requires_grad_() for _ in range(layers)]
    masks = [torch.randn(batch, QUERIES, 6, 8, generator=generator).requires_grad_() for _ in range(layers)]
    return classes, masks


def ours(classes, masks, instances, seed=0):
    torch.manual_seed(seed)
    return PseudoLabelMask2FormerLoss(CONFIG)(classes, masks, [to_mask_targets(x, SIZE) for x in instances])


@pytest.mark.parametrize("labels", [([0, 2, 2], [1]), ([], [1, 1]), ([], [])], ids=["many", "one-empty", "none"])
def test_equals_transformers_with_its_gradients(labels):
    classes, masks = logits()
    instances = [truth(some, seed=i) for i, some in enumerate(labels)]
    found = ours(classes, masks, instances)
    torch.manual_seed(0)
    theirs = Mask2FormerLoss(CONFIG, {})(
        masks[-1], classes[-1], [x.gt_masks.tensor.float() for x in instances], [x.gt_classes for x in instances],
        [{"masks_queries_logits": m, "class_queries_logits": c} for c, m in zip(classes[:-1], masks[:-1], strict=True)],
    )  # fmt: skip
    factors = {"loss_class": CONFIG.class_weight, "loss_mask": CONFIG.mask_weight, "loss_dice": CONFIG.dice_weight}
    for term, name in TERMS.items():
        wanted = factors[term] * sum(value for key, value in theirs.items() if key.startswith(name))
        torch.testing.assert_close(found[term], wanted)
    sources = [*classes, *masks]
    a = torch.autograd.grad(sum(found.values()), sources, retain_graph=True)
    whole = sum(factors[term] * v for term, n in TERMS.items() for k, v in theirs.items() if k.startswith(n))
    b = torch.autograd.grad(whole, sources, allow_unused=True)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, torch.zeros_like(x) if y is None else y)


def test_layers_are_summed():
    classes, masks = logits(layers=1)
    one = ours(classes, masks, [truth([0]), truth([1])])
    # all of a query's points are one number, so which points are drawn does not matter
    flat = [torch.zeros_like(masks[0])]
    once, twice = (ours(classes * n, flat * n, [truth([0]), truth([1])]) for n in (1, 2))
    torch.testing.assert_close(twice["loss_mask"], 2 * once["loss_mask"])
    assert one.keys() == TERMS.keys()


def confident(classes, masks, scale=12.0):
    """Logits of the first queries that predict the given instances, the others "no object" and nothing."""
    class_logits = torch.zeros(1, QUERIES, 4)
    class_logits[..., -1] = scale
    mask_logits = torch.full((1, QUERIES, *SIZE), -scale)
    for i, (label, mask) in enumerate(zip(classes, masks, strict=True)):
        class_logits[0, i] = F.one_hot(torch.tensor(label), 4) * scale
        mask_logits[0, i] = (mask.float() * 2 - 1) * scale
    return [class_logits.requires_grad_()], [mask_logits.requires_grad_()]


def test_perfect_predictions_cost_least():
    instances = truth([0, 2])
    masks = instances.gt_masks.tensor
    found = ours(*confident([0, 2], masks), [instances])
    shifted = ours(*confident([0, 2], masks.roll(3, dims=2)), [instances])
    other = ours(*confident([1, 2], masks), [instances])
    assert found["loss_class"] < 1e-3 and found["loss_dice"] < 0.6 * shifted["loss_dice"]
    assert found["loss_mask"] < 0.6 * shifted["loss_mask"] and other["loss_class"] > 1


def test_weights_scale_each_instance():
    classes, masks = logits(batch=1)
    full, half, none = (
        ours(classes, masks, [truth([0, 2], gt_weights=torch.tensor([1.0, weight]))]) for weight in (1.0, 0.5, 0.0)
    )
    plain = ours(classes, masks, [truth([0, 2])])
    nothing = ours(classes, masks, [truth([0, 2], gt_weights=torch.zeros(2))])
    for term in TERMS:
        torch.testing.assert_close(half[term], (full[term] + none[term]) / 2)
        assert none[term] < full[term] == plain[term]
    assert nothing["loss_mask"] == 0 == nothing["loss_dice"] and nothing["loss_class"] > 0


def test_ignored_regions_are_neither_object_nor_background():
    known, ignored = truth([0, -1]).gt_masks.tensor
    instances = truth([0, -1])
    # the second query is sure of an object in the ignored region
    classes, masks = confident([0, 1], [known, ignored])
    found = ours(classes, masks, [instances])
    assert found["loss_class"] < 1e-3
    sum(found.values()).backward()
    assert (classes[0].grad[0, 1] == 0).all() and (masks[0].grad[0, 1] == 0).all()
    wrong = ours(classes, masks, [instances[:1]])
    assert wrong["loss_class"] > 0.5
    only = ours(*confident([1], [ignored]), [instances[1:]])
    assert only["loss_mask"] == 0 and only["loss_class"] < 1e-3


def test_points_of_ignored_regions_are_no_background_of_a_mask():
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 4:14, 2:12], masks[1, 2:20, 12:30] = True, True
    instances = Instances(SIZE, gt_classes=torch.tensor([0, -1]), gt_masks=BitMasks(masks))
    predicted = masks[0].clone()
    predicted[5:16, 15:27] = True  # a block within the ignored region
    classes, logits = confident([0], [predicted])
    found, exact = (ours(classes, some, [instances]) for some in (logits, confident([0], masks[:1])[1]))
    wrong = ours(classes, logits, [instances[:1]])
    for term in ("loss_mask", "loss_dice"):
        assert found[term] < 0.6 * wrong[term] and found[term] < 2 * exact[term]
    (gradient,) = torch.autograd.grad(found["loss_mask"] + found["loss_dice"], logits)
    assert gradient[0, 0, 6:15, 16:26].abs().sum() == 0 and gradient[0, 0].abs().sum() > 0


def test_mask_is_inside_an_ignored_region_by_more_than_half():
    ignored = torch.zeros(8, 8, dtype=torch.bool)
    ignored[:, :4] = True
    masks = torch.full((4, 4, 4), -1.0)
    masks[0, :, :2], masks[1, :, 1:3], masks[2, :, 2:] = 1.0, 1.0, 1.0  # in it, half in it, outside; the last is empty
    assert inside_ignored(masks, ignored).tolist() == [True, False, False, False]


def test_soft_masks_are_what_is_learned():
    instances = truth([1])
    instances.gt_soft_masks = torch.full((1, *SIZE), 0.25)
    classes, masks = confident([1], instances.gt_masks.tensor)
    entropies = {}
    for probability in (0.25, 0.75):
        value = torch.tensor(probability).logit()
        masks[0].data[0, 0] = value
        entropies[probability] = ours(classes, masks, [instances])["loss_mask"].item() / CONFIG.mask_weight
        expected = -(0.25 * torch.tensor(probability).log() + 0.75 * torch.tensor(1 - probability).log())
        # points at the frame's border mix in the zeros beyond it
        assert entropies[probability] == pytest.approx(expected.item(), abs=0.15)
    assert entropies[0.25] < entropies[0.75]


@pytest.mark.parametrize("beside", [[], [[0, 2]]], ids=["alone", "beside"])
def test_empty_image_of_detectron2s_mapper_is_all_background(beside):
    empty = annotations_to_instances([], SIZE)
    assert not empty.has("gt_masks")
    target = to_mask_targets(empty, (32, 64))
    assert target.masks.shape == (0, 32, 64) and target.classes.shape == (0,) and target.ignored is None
    others = [truth(labels) for labels in beside]
    classes, masks = logits(batch=1 + len(others))
    found = ours(classes, masks, [empty, *others])
    wanted = ours(classes, masks, [truth([]), *others])
    assert all(torch.equal(found[term], wanted[term]) for term in TERMS) and found["loss_class"] > 0
    assert (found["loss_mask"] > 0) == bool(others)


def test_targets_are_padded_to_the_input():
    instances = truth([0, -1, 2], gt_weights=torch.tensor([0.5, 1.0, 0.25]))
    target = to_mask_targets(instances, (32, 64))
    assert target.classes.tolist() == [0, 2] and target.weights.tolist() == [0.5, 0.25]
    assert target.masks.shape == (2, 32, 64) and target.ignored.shape == (32, 64)
    assert torch.equal(target.masks[:, :24, :32], instances.gt_masks.tensor[[0, 2]])
    assert torch.equal(target.ignored[:24, :32], instances.gt_masks.tensor[1])
    assert not target.masks[:, 24:].any() and not target.masks[:, :, 32:].any()
    empty = to_mask_targets(truth([]), (32, 64))
    assert empty.masks.shape == (0, 32, 64) and empty.ignored is None


def test_more_instances_than_queries():
    classes, masks = logits(batch=1)
    found = ours([c[:, :2] for c in classes], [m[:, :2] for m in masks], [truth([0, 1, 2, 0, 1])])
    assert all(torch.isfinite(value) and value > 0 for value in found.values())
