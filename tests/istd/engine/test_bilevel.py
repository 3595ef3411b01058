"""The hyper-gradient against a quadratic problem worked out by hand."""

import math

import pytest
import torch

from istd.engine.bilevel import Forward, batch_loss, outer_gradients
from istd.losses import soft_iou

ETA = 0.1


def quadratic():
    """F = 1/2 (t1 - 3)^2 + 1/2 (t2 + 1)^2 + a1, f = 1/2 |t|^2 (1 + a2), at t = (1, 2), alpha = (0, 0)."""
    first, second = torch.tensor([1.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    alpha = torch.zeros(2, requires_grad=True)
    outer = 0.5 * (first - 3) ** 2 + 0.5 * (second + 1) ** 2 + alpha[0]
    inner = 0.5 * (first**2 + second**2) * (1 + alpha[1])
    return outer.sum(), inner.sum(), [first, second], alpha


def test_quadratic_by_hand():
    found = outer_gradients(*quadratic(), ETA)
    # F_theta = (-2, 3), f_theta = (1, 2): <F, f> = 4, <f, f> = 5; f_alpha = (0, 2.5), F_alpha = (1, 0).
    fraction = 4 / 5
    assert found.fraction == pytest.approx(fraction)
    assert [g.item() for g in found.theta] == pytest.approx([-2 + ETA * fraction * 1, 3 + ETA * fraction * 2])
    assert found.alpha.tolist() == pytest.approx([1.0, ETA * fraction * 2.5])
    implicit, direct = ETA * fraction * math.sqrt(5), math.sqrt(13)
    assert found.share_theta == pytest.approx(implicit / (implicit + direct))
    assert found.share_alpha == pytest.approx(0.2 / 1.2)


def test_equals_the_plain_way_of_three_losses():
    outer, inner, theta, alpha = quadratic()
    found = outer_gradients(outer, inner, theta, alpha, ETA)
    outer, inner, theta, alpha = quadratic()
    f_theta = torch.cat(torch.autograd.grad(outer, theta, retain_graph=True))
    g_theta = torch.cat(torch.autograd.grad(inner, theta, retain_graph=True))
    constant = (f_theta @ g_theta / (g_theta @ g_theta + 1e-12)).detach()
    outer, inner, theta, alpha = quadratic()
    wanted = torch.autograd.grad(outer - ETA * (-constant * inner), [*theta, alpha])
    for one, two in zip([*found.theta, found.alpha], wanted, strict=True):
        assert torch.allclose(one, two)


def test_a_training_loss_at_its_minimum_leaves_the_gradient_alone():
    outer, _, theta, alpha = quadratic()
    inner = 0.0 * sum(parameter.sum() for parameter in theta) + 0.0 * alpha.sum()
    found = outer_gradients(outer, inner, theta, alpha, ETA)
    assert [g.item() for g in found.theta] == [-2.0, 3.0]
    assert (found.fraction, found.share_theta, found.share_alpha) == (0.0, 0.0, 0.0)


def test_parameters_that_a_loss_does_not_reach_have_a_zero_gradient():
    outer, inner, theta, alpha = quadratic()
    unused = torch.ones(3, requires_grad=True)
    found = outer_gradients(outer, inner, [*theta, unused], alpha, ETA)
    assert found.theta[2].tolist() == [0.0, 0.0, 0.0]
    assert found.fraction == pytest.approx(0.8)


def test_gradients_are_reduced_before_the_fraction():
    outer, inner, theta, alpha = quadratic()
    found = outer_gradients(outer, inner, theta, alpha, ETA, reduce=lambda grads: [2 * g for g in grads])
    assert found.fraction == pytest.approx(0.8)
    assert found.theta[0].item() == pytest.approx(2 * (-2 + ETA * 0.8))


@pytest.fixture
def forward() -> Forward:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 1, 4, 4, generator=generator).unbind()
    targets = (torch.rand(3, 1, 4, 4, generator=generator) > 0.7).float()
    return Forward([student.requires_grad_()], teacher, targets, torch.tensor([0, 1, 1]))


def test_batch_loss_by_hand(forward):
    alpha = torch.tensor([0.5, -0.2], requires_grad=True)
    chosen = [0.5, -0.2, -0.2]
    middle, log2 = sum(chosen) / 3, math.log(2)
    weights = [math.exp(log2 * math.tanh((a - middle) / log2)) for a in chosen]
    expected = 0.0
    for i, weight in enumerate(weights):
        s, t, y = forward.student_maps[0][i].detach(), forward.teacher_logits[i], forward.targets[i]
        p = torch.sigmoid(s)
        bce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        mse = ((torch.sigmoid(s / 4) - torch.sigmoid(t / 4)) ** 2).mean()
        expected += weight / (sum(weights) / 3) * (bce + mse).item() / 3
    loss = batch_loss(forward, alpha)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(loss, alpha)[0].abs().sum() > 0


def test_unweighted_loss_does_not_hold_alpha(forward):
    alpha = torch.tensor([0.5, -0.2], requires_grad=True)
    outer = batch_loss(forward, alpha, weighted=False, loss=soft_iou)
    inner = batch_loss(forward, alpha, loss=soft_iou)
    found = outer_gradients(outer, inner, forward.student_maps, alpha, ETA)
    assert found.share_alpha == 1.0
    assert found.alpha.abs().sum() > 0
