"""ISTD losses against hand-written references, their zero cases and gradients."""

import math

import pytest
import torch

from istd.losses import (
    SUPERVISION,
    balanced_bce,
    bce,
    bce_hard_iou,
    bce_soft_iou,
    distillation,
    inner_losses,
    outer_loss,
    sample_weights,
    soft_iou,
    supervise,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS, TEACHER = draw(3, 1, 4, 5), draw(3, 1, 4, 5, seed=1)
TARGETS = draw(3, 1, 4, 5, seed=2).sigmoid()


def rows(*maps: torch.Tensor):
    """Per sample, the pixels of each map as lists."""
    return [[m[i].flatten().tolist() for m in maps] for i in range(len(maps[0]))]


def bce_by_hand(logits, targets):
    terms = [
        -(t * math.log(sigmoid(x)) + (1 - t) * math.log(1 - sigmoid(x))) for x, t in zip(logits, targets, strict=True)
    ]
    return sum(terms) / len(terms)


def distillation_by_hand(student, teacher, temperature=4.0):
    terms = [(sigmoid(a / temperature) - sigmoid(b / temperature)) ** 2 for a, b in zip(student, teacher, strict=True)]
    return sum(terms) / len(terms)


def test_bce():
    assert bce(LOGITS, TARGETS).tolist() == pytest.approx([bce_by_hand(*r) for r in rows(LOGITS, TARGETS)], rel=1e-5)
    hard = (TARGETS > 0.5).float()
    assert bce((hard * 2 - 1) * 1e4, hard).tolist() == [0, 0, 0]


def test_soft_iou():
    def by_hand(logits, targets):
        p = [sigmoid(x) for x in logits]
        both = sum(a * t for a, t in zip(p, targets, strict=True))
        return 1 - (both + 1) / (sum(p) + sum(targets) - both + 1)

    assert soft_iou(LOGITS, TARGETS).tolist() == pytest.approx([by_hand(*r) for r in rows(LOGITS, TARGETS)], rel=1e-5)
    hard = (TARGETS > 0.5).float()
    assert soft_iou((hard * 2 - 1) * 1e4, hard).tolist() == [0, 0, 0]
    nothing = torch.zeros(1, 1, 4, 4)
    assert soft_iou(nothing - 1e4, nothing).tolist() == [0]
    assert torch.equal(bce_soft_iou(LOGITS, TARGETS), bce(LOGITS, TARGETS) + soft_iou(LOGITS, TARGETS))


def test_bce_hard_iou():
    def by_hand(logits, targets):
        p, hard = [sigmoid(x) for x in logits], [float(t > 0.5) for t in targets]
        both, smooth = sum(a * t for a, t in zip(p, hard, strict=True)), float(not any(hard))
        return bce_by_hand(logits, targets) + 1 - (both + smooth) / (sum(p) + sum(hard) - both + smooth)

    targets = TARGETS.clone()
    targets[1] *= 0.4  # no region
    wanted = [by_hand(*r) for r in rows(LOGITS, targets)]
    assert bce_hard_iou(LOGITS, targets).tolist() == pytest.approx(wanted, rel=1e-5)
    hard = (targets > 0.5).float()
    assert bce_hard_iou((hard * 2 - 1) * 1e4, hard).tolist() == [0, 0, 0]
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bce_hard_iou(x, targets), logits, eps=1e-3, atol=1e-3)


def test_balanced_bce():
    def by_hand(logits, targets, weight):
        terms = zip(logits, targets, strict=True)
        terms = [-(weight * t * math.log(sigmoid(x)) + (1 - t) * math.log(1 - sigmoid(x))) for x, t in terms]
        return sum(terms) / len(terms)

    targets = TARGETS.clone()
    targets[1], targets[2] = 0, 0
    targets[2, 0, 1, 1] = 1
    areas = targets.flatten(1).sum(1).tolist()
    assert areas[0] > 8
    for area, weights in ((8.0, (1, 8, 8)), (areas[0] * 2, (2, areas[0] * 2, areas[0] * 2))):
        wanted = [by_hand(*r, w) for r, w in zip(rows(LOGITS, targets), weights, strict=True)]
        assert balanced_bce(LOGITS, targets, area).tolist() == pytest.approx(wanted, rel=1e-5)
    assert torch.allclose(balanced_bce(LOGITS, TARGETS, 1.0), bce(LOGITS, TARGETS))
    hard = (targets > 0.5).float()
    assert balanced_bce((hard * 2 - 1) * 1e4, hard).tolist() == [0, 0, 0]
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: balanced_bce(x, targets, 8.0), logits, eps=1e-3, atol=1e-3)


def test_a_blob_around_a_point_is_better_than_silence():
    point, blob = torch.zeros(1, 1, 9, 9), torch.full((1, 1, 9, 9), -20.0)
    point[..., 4, 4] = 1
    silence = bce_hard_iou(blob.clone(), point)
    blob[..., 3:6, 3:6] = 20
    assert bce_hard_iou(blob, point) - bce(blob, point) < silence - bce(torch.full_like(blob, -20.0), point)


def test_distillation():
    wanted = [distillation_by_hand(*r) for r in rows(LOGITS, TEACHER)]
    assert distillation(LOGITS, TEACHER).tolist() == pytest.approx(wanted, rel=1e-5)
    wanted = [distillation_by_hand(*r, temperature=1.0) for r in rows(LOGITS, TEACHER)]
    assert distillation(LOGITS, TEACHER, 1.0).tolist() == pytest.approx(wanted, rel=1e-5)
    assert distillation(LOGITS, LOGITS).tolist() == [0, 0, 0]


def test_distillation_of_a_smaller_map():
    constant = torch.full((1, 1, 8, 8), 2.0)
    assert distillation(torch.full((1, 1, 4, 4), 2.0), constant).tolist() == [0]
    assert distillation(torch.zeros(1, 1, 4, 4), constant).item() == pytest.approx((sigmoid(0.5) - 0.5) ** 2)


def test_supervise_averages_the_maps():
    small = draw(3, 1, 2, 2, seed=3)
    targets = torch.zeros(3, 1, 4, 4)
    targets[:, :, 3, 0] = 1
    fine = draw(3, 1, 4, 4, seed=4)
    pooled = torch.zeros(3, 1, 2, 2)
    pooled[:, :, 1, 0] = 1
    assert torch.allclose(supervise([fine, small], targets), (bce(fine, targets) + bce(small, pooled)) / 2)
    assert torch.equal(supervise([fine], targets, soft_iou), soft_iou(fine, targets))


def weights_by_hand(values):
    log2, mean = math.log(2), sum(values) / len(values)
    w = [math.exp(log2 * math.tanh((v - mean) / log2)) for v in values]
    return [x * len(w) / sum(w) for x in w]


def test_sample_weights():
    alpha = torch.tensor([0.3, -1.0, 2.0, 7.0], dtype=torch.float64)
    clusters = torch.tensor([2, 0, 0, 1])
    weights = sample_weights(alpha, clusters)
    assert weights.tolist() == pytest.approx(weights_by_hand([2.0, 0.3, 0.3, -1.0]))
    assert weights.mean().item() == pytest.approx(1)
    assert sample_weights(torch.zeros(4), clusters).tolist() == [1, 1, 1, 1]
    extreme = sample_weights(torch.tensor([-100.0, 100.0]), torch.tensor([0, 1]))
    assert (extreme[1] / extreme[0]).item() == pytest.approx(4), "raw weights stay in [0.5, 2]"


def test_sample_weights_differentiate_with_the_mean_detached():
    alpha = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    clusters = torch.tensor([2, 0, 0, 1])
    mean = (0.8 + 0.3 + 0.3 - 1.0) / 4
    raw = [math.exp(math.log(2) * math.tanh((v - mean) / math.log(2))) for v in (0.8, 0.3, 0.3, -1.0)]

    def with_constant_divisor(a):
        log2 = math.log(2)
        return torch.exp(log2 * torch.tanh((a[clusters] - a[clusters].mean()) / log2)) / (sum(raw) / 4)

    probe = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    (got,) = torch.autograd.grad((sample_weights(alpha, clusters) * probe).sum(), alpha)
    (wanted,) = torch.autograd.grad((with_constant_divisor(alpha) * probe).sum(), alpha)
    assert torch.allclose(got, wanted) and got.any()


@pytest.mark.parametrize("name", SUPERVISION)
def test_supervision_gradients(name):
    # float32 inside: compare with finite differences at its precision
    logits = LOGITS[:1, :, :2, :2].clone().requires_grad_()
    targets = TARGETS[:1, :, :2, :2]
    assert torch.autograd.gradcheck(lambda x: SUPERVISION[name](x, targets), logits, eps=1e-2, atol=1e-3)


def test_distillation_gradient():
    logits = LOGITS[:1, :, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distillation(x, TEACHER[:1, :, :2, :2]), logits, eps=1e-2, atol=1e-3)


def test_inner_losses_by_hand():
    weights, gate = torch.tensor([0.5, 1.0, 1.5]), torch.tensor(0.7)
    losses = inner_losses([TEACHER], LOGITS, TARGETS, weights, gate)
    pixels = rows(TEACHER, LOGITS, TARGETS)
    mask = sum(w * bce_by_hand(t, y) for w, (t, _, y) in zip(weights.tolist(), pixels, strict=True)) / 3
    distilled = sum(w * distillation_by_hand(s, t) for w, (t, s, _) in zip(weights.tolist(), pixels, strict=True)) / 3
    assert losses.keys() == {"loss_mask", "loss_distill", "loss_gate"}
    assert losses["loss_mask"].item() == pytest.approx(mask, rel=1e-5)
    assert losses["loss_distill"].item() == pytest.approx(0.1 * distilled, rel=1e-5)
    assert losses["loss_gate"].item() == pytest.approx(0.005 * 0.7)


def test_inner_losses_teach_the_teacher_only():
    alpha = torch.zeros(2, requires_grad=True)
    student, teacher = LOGITS.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    gate = torch.ones(4, requires_grad=True)
    weights = sample_weights(alpha, torch.tensor([0, 1, 1]))
    sum(inner_losses([teacher], student, TARGETS, weights, gate.mean()).values()).backward()
    assert teacher.grad.any() and gate.grad.any() and student.grad is None and alpha.grad is None


def test_inner_losses_are_zero_where_nothing_is_wrong():
    hard = (TARGETS > 0.5).float()
    right = (hard * 2 - 1) * 1e4
    losses = inner_losses([right], right, hard, torch.ones(3), torch.tensor(0.0))
    assert [value.item() for value in losses.values()] == [0, 0, 0]


def test_outer_loss_by_hand():
    weights = torch.tensor([0.5, 1.0, 1.5])
    pixels = rows(LOGITS, TEACHER, TARGETS)
    terms = [distillation_by_hand(s, t) + bce_by_hand(s, y) for s, t, y in pixels]
    wanted = sum(w * term for w, term in zip(weights.tolist(), terms, strict=True)) / 3
    assert outer_loss([LOGITS], TEACHER, TARGETS, weights).item() == pytest.approx(wanted, rel=1e-5)
    other = draw(3, 1, 4, 5, seed=5)
    both = outer_loss([LOGITS, other], TEACHER, TARGETS, weights)
    alone = [outer_loss([m], TEACHER, TARGETS, weights) for m in (LOGITS, other)]
    assert both.item() == pytest.approx(sum(alone).item() / 2)


def test_outer_loss_teaches_student_and_alpha():
    alpha = torch.tensor([0.1, -0.2], requires_grad=True)
    student, teacher = LOGITS.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    outer_loss([student], teacher, TARGETS, sample_weights(alpha, torch.tensor([0, 1, 1]))).backward()
    assert student.grad.any() and alpha.grad.any() and teacher.grad is None


def test_outer_loss_is_zero_where_nothing_is_wrong():
    hard = (TARGETS > 0.5).float()
    right = (hard * 2 - 1) * 1e4
    assert outer_loss([right], right, hard, torch.ones(3)).item() == 0
