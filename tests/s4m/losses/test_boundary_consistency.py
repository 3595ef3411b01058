"""The boundary-aware consistency against loops over cells, its zero cases, and where gradients flow."""

import math

import pytest
import torch

from s4m.losses.boundary_consistency import (
    BoundaryConsistency,
    band_radius,
    binary_divergence,
    sam_certainty,
    soft_boundary,
)

OPTIONS = {"width": 0.2, "gain": 3.0, "teacher_share": 0.25}


def boundary_consistency(*arguments, width, gain, teacher_share, **maps):
    return BoundaryConsistency(width=width, gain=gain, teacher_share=teacher_share).terms(*arguments, **maps)


def disc(side=12, radius=4.0, dx=0.0):
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (((y - side / 2 + 0.5) ** 2 + (x - side / 2 + 0.5 - dx) ** 2) < radius**2).float()


def soft(count, side=12, seed=0):
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(maps, i, j, k):
    """Values of a map (H, W) within k cells of a cell."""
    return maps[max(i - k, 0) : i + k + 1, max(j - k, 0) : j + k + 1]


def boundary_by_hand(maps, k):
    height, width = maps.shape
    values = [[near(maps, i, j, k).max() - near(maps, i, j, k).min() for j in range(width)] for i in range(height)]
    return torch.tensor(values, dtype=maps.dtype)


def mean_by_hand(maps, k):
    for _ in range(k):
        values = [[near(maps, i, j, 1).mean() for j in range(maps.shape[1])] for i in range(maps.shape[0])]
        maps = torch.tensor(values, dtype=maps.dtype)
    return maps


def terms_by_hand(logits, target, teacher, sam, k, valid=None, *, gain, teacher_share, **_):
    """One refined object, cell by cell."""
    p = logits.sigmoid()
    valid = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
    p = torch.where(valid, p, target)
    band, own = boundary_by_hand(target, k), boundary_by_hand(p, k)
    certainty = mean_by_hand((2 * sam - 1).abs(), k)
    total = norm = overlap = energy = 0.0
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            if not valid[i, j]:
                continue
            q = (1 - teacher_share) * target[i, j] + teacher_share * teacher[i, j]
            divergence = sum(a * math.log(a / b) for a, b in ((q, p[i, j]), (1 - q, 1 - p[i, j])) if a > 0)
            emphasis = 1 + gain * band[i, j] * certainty[i, j]
            total += emphasis * (1 - abs(teacher[i, j] - sam[i, j])) * divergence
            norm += emphasis
            overlap += certainty[i, j] * own[i, j] * band[i, j]
            energy += certainty[i, j] * (own[i, j] ** 2 + band[i, j] ** 2)
    return float(total / norm), float(1 - (2 * overlap + 1) / (energy + 1))


def test_equals_a_loop_over_cells():
    targets = torch.stack([disc(radius=4.0), disc(radius=1.2), disc(radius=5.5)])
    logits, teacher, sam = 4 * soft(3, seed=1) - 2, soft(3, seed=2), soft(3, seed=3)
    found = boundary_consistency(logits, targets, teacher, sam, torch.ones(3, dtype=torch.bool), **OPTIONS)
    for i, k in enumerate(band_radius(targets, OPTIONS["width"]).tolist()):
        expected = terms_by_hand(logits[i], targets[i].double(), teacher[i], sam[i], k, **OPTIONS)
        torch.testing.assert_close((found.consistency[i].item(), found.edge[i].item()), expected, rtol=1e-4, atol=1e-5)


def test_cells_that_do_not_count():
    targets = torch.stack([disc(radius=4.0), disc(radius=5.5)])
    logits, teacher, sam = 4 * soft(2, seed=1) - 2, soft(2, seed=2), soft(2, seed=3)
    logits.requires_grad_()
    refined, valid = torch.ones(2, dtype=torch.bool), soft(2, seed=4) > 0.3
    valid[1, :, 7:] = False
    found = boundary_consistency(logits, targets, teacher, sam, refined, **OPTIONS, valid=valid)
    for i, k in enumerate(band_radius(targets, OPTIONS["width"]).tolist()):
        maps = (logits[i].detach(), targets[i].double(), teacher[i], sam[i])
        expected = terms_by_hand(*maps, k, valid[i], **OPTIONS)
        torch.testing.assert_close((found.consistency[i].item(), found.edge[i].item()), expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad((found.consistency + found.edge).sum(), logits)
    assert (gradient[~valid] == 0).all() and (gradient[valid] != 0).any()
    maps = (logits, targets, teacher, sam, refined)
    nothing = boundary_consistency(*maps, **OPTIONS, valid=torch.zeros_like(valid))
    assert nothing.consistency.tolist() == nothing.edge.tolist() == [0, 0]
    for every, plain in zip(
        boundary_consistency(*maps, **OPTIONS, valid=torch.ones_like(valid)),
        boundary_consistency(*maps, **OPTIONS),
        strict=True,
    ):
        torch.testing.assert_close(every, plain)


def test_radius_is_a_fraction_of_the_objects_own_size():
    targets = torch.zeros(4, 40, 40)
    targets[0, 10:30, 5:25] = 1  # 20 x 20
    targets[1, 0:9, 0:36] = 0.6  # 9 x 36: as 18 x 18
    targets[2, 3, 3] = 1
    assert band_radius(targets, 0.1).tolist() == [2, 2, 1, 1]
    assert band_radius(targets, 0.25).tolist() == [5, 4, 1, 1]
    double = targets.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert band_radius(double, 0.25).tolist() == [10, 9, 1, 1]


def test_soft_boundary_of_a_square_is_the_band_around_its_outline():
    mask = torch.zeros(1, 12, 12)
    mask[0, 4:9, 0:6] = 1  # reaches the frame's left border, which is no outline
    band = soft_boundary(mask, torch.tensor([1]))[0]
    expected = torch.zeros(12, 12)
    expected[3:10, 0:7] = 1
    expected[5:8, 0:5] = 0
    assert torch.equal(band, expected)
    assert soft_boundary(torch.full((2, 5, 5), 0.3), torch.tensor([1, 2])).sum() == 0
    torch.testing.assert_close(soft_boundary(0.25 * mask, torch.tensor([1]))[0], 0.25 * expected)


def test_certainty_sees_a_sharp_outline_as_certain_and_a_blurred_one_not():
    target = disc(24, 8)[None]
    blurred = torch.nn.functional.avg_pool2d(target[:, None], 9, 1, 4)[:, 0]
    band = soft_boundary(target, torch.tensor([2])) > 0
    assert (sam_certainty(target, torch.tensor([2])) == 1).all()
    assert sam_certainty(blurred, torch.tensor([2]))[band].mean() < 0.7
    assert sam_certainty(torch.full((1, 6, 6), 0.5), torch.tensor([2])).sum() == 0


@pytest.mark.parametrize("refined", [True, False])
def test_zero_where_the_student_is_the_pseudo_mask(refined):
    target = torch.stack([disc(), disc(radius=2), torch.zeros(12, 12), torch.ones(12, 12)])
    flags = torch.full((4,), refined)
    terms = boundary_consistency(60 * target - 30, target, target, target, flags, **OPTIONS)
    for term in terms:
        torch.testing.assert_close(term, torch.zeros(4), atol=1e-5, rtol=0)


def test_divergence_is_zero_at_its_target_and_its_gradient_that_of_cross_entropy():
    targets = soft(2)
    logits = targets.logit().requires_grad_()
    torch.testing.assert_close(binary_divergence(logits, targets), torch.zeros_like(targets), atol=1e-9, rtol=0)
    other = (targets.logit() + 1).detach().requires_grad_()
    binary_divergence(other, targets).sum().backward()
    torch.testing.assert_close(other.grad, other.detach().sigmoid() - targets)


def test_an_error_at_a_certain_boundary_costs_more_than_elsewhere():
    target = disc(24, 8)[None]
    radius = band_radius(target, OPTIONS["width"])
    band = soft_boundary(target, radius)[0] > 0
    there, away = band.nonzero()[0], (~band & (target[0] == 0)).nonzero()[0]
    yes = torch.ones(1, dtype=torch.bool)

    def loss(cell, sam, refined=yes):
        logits = 24 * target - 12
        logits[0, cell[0], cell[1]] *= -1
        return boundary_consistency(logits, target, target, sam, refined, **OPTIONS).consistency.item()

    sure, unsure = target, 0.5 + 0.02 * (target - 0.5)
    assert loss(there, sure) == pytest.approx(4 * loss(away, sure), rel=0.01)
    assert loss(there, unsure) < 1.2 * loss(away, unsure)
    assert loss(there, sure, ~yes) == pytest.approx(loss(away, sure, ~yes))


def test_disagreement_of_teacher_and_sam_lowers_the_loss_unless_sam_was_not_taken():
    target = disc()[None]
    logits = torch.zeros(1, 12, 12)

    def loss(teacher, refined):
        return boundary_consistency(
            logits, target, teacher, target, torch.tensor([refined]), width=0.1, gain=2.0, teacher_share=0.0
        ).consistency.item()

    other = disc(dx=4.0)[None]
    assert loss(target, True) == pytest.approx(math.log(2), rel=1e-5)
    assert 0 < loss(other, True) < 0.8 * loss(target, True)
    assert loss(1 - target, True) == 0
    assert loss(other, False) == pytest.approx(math.log(2), rel=1e-5)


def test_edge_term_orders_boundaries_and_needs_sam():
    target = disc(24, 8)[None]
    yes = torch.ones(1, dtype=torch.bool)

    def edge(mask, refined=yes):
        return boundary_consistency(12 * mask - 6, target, target, target, refined, **OPTIONS).edge.item()

    exact, near_by, far, none = edge(target), edge(disc(24, 7)[None]), edge(disc(24, 4)[None]), edge(0 * target)
    assert exact < 0.01 and exact < near_by < far <= 1 and none > 0.9
    assert edge(0 * target, ~yes) == 0


def test_gradients_reach_the_students_logits_alone():
    maps = {name: soft(3, seed=i).requires_grad_() for i, name in enumerate(("logits", "targets", "teacher", "sam"))}
    terms = boundary_consistency(**maps, refined=torch.tensor([True, False, True]), **OPTIONS)
    for term in terms:
        (gradient,) = torch.autograd.grad(term.sum(), maps["logits"], retain_graph=True)
        assert gradient.isfinite().all() and (gradient[[0, 2]].abs().amax(dim=(1, 2)) > 0).all()
    (terms.consistency + terms.edge).sum().backward()
    assert all(maps[name].grad is None for name in ("targets", "teacher", "sam"))
    assert (
        torch.autograd.grad(
            boundary_consistency(**maps, refined=torch.zeros(3, dtype=torch.bool), **OPTIONS).edge.sum(), maps["logits"]
        )[0]
        == 0
    ).all()


def test_gradient_is_the_slope():
    logits = (4 * soft(2, 7) - 2).requires_grad_()
    rest = disc(7, 2).expand(2, -1, -1), soft(2, 7, 1), soft(2, 7, 2)

    def total(values):
        terms = boundary_consistency(values, *rest, torch.ones(2, dtype=torch.bool), **OPTIONS)
        return (terms.consistency + terms.edge).double().sum()

    (gradient,) = torch.autograd.grad(total(logits), logits)
    step = 0.01 * torch.randn(gradient.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        slope = (total(logits + step) - total(logits - step)) / 2
    torch.testing.assert_close((gradient * step).sum(), slope, rtol=0.03, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_any_number_of_objects_and_none_depends_on_another(count):
    logits, teacher, sam = (soft(count, seed=i).requires_grad_(i == 0) for i in range(3))
    targets, refined = (soft(count, seed=3) > 0.5).double(), torch.arange(count) % 2 == 0
    terms = boundary_consistency(logits, targets, teacher, sam, refined, **OPTIONS)
    assert terms.consistency.shape == terms.edge.shape == (count,)
    (terms.consistency + terms.edge).sum().backward()
    assert logits.grad.isfinite().all()
    if count:
        last = [maps[-1:] for maps in (logits, targets, teacher, sam, refined)]
        alone = boundary_consistency(*last, **OPTIONS)
        torch.testing.assert_close(alone.consistency[0], terms.consistency[-1])
        torch.testing.assert_close(alone.edge[0], terms.edge[-1])


def test_half_precision_under_autocast_stays_finite():
    logits = torch.full((1, 8, 8), 30.0, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = disc(8, 2)[None].half()
        terms = boundary_consistency(logits, maps, maps, maps, torch.ones(1, dtype=torch.bool), **OPTIONS)
    assert terms.consistency.dtype == torch.float32 and terms.consistency.item() > 1
    (terms.consistency + terms.edge).sum().backward()
    assert logits.grad.isfinite().all()
