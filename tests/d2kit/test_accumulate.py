"""Accumulated gradients equal one large batch, under clipping, over a resume, for SGD and AdamW."""

import copy

import pytest
import torch
from torch import nn

from d2kit.accumulate import with_accumulation


def make(kind, steps):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, with_accumulation(optimizer, steps)


def train(model, optimizer, batches):
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_equals_one_large_batch(kind):
    data = torch.randn(3, 8, 4)
    small, small_optimizer = make(kind, 2)
    large, large_optimizer = make(kind, 1)
    train(small, small_optimizer, [half for x in data for half in x.split(4)])
    train(large, large_optimizer, data)
    torch.testing.assert_close(small.weight, large.weight)


def test_weights_stay_until_the_last_pass():
    model, optimizer = make("sgd", 3)
    before = model.weight.clone()
    train(model, optimizer, torch.randn(2, 4, 4))
    assert torch.equal(model.weight, before)
    train(model, optimizer, torch.randn(1, 4, 4))
    assert not torch.equal(model.weight, before)


def test_resume_between_two_passes():
    data = torch.randn(4, 4, 4)
    whole, whole_optimizer = make("adamw", 2)
    train(whole, whole_optimizer, data)
    part, part_optimizer = make("adamw", 2)
    train(part, part_optimizer, data[:3])
    resumed, resumed_optimizer = make("adamw", 2)
    resumed.load_state_dict(part.state_dict())
    resumed_optimizer.load_state_dict(copy.deepcopy(part_optimizer.state_dict()))
    train(resumed, resumed_optimizer, data[3:])
    assert torch.equal(resumed.weight, whole.weight)


def test_hooks_run_once_a_real_step_even_after_a_state_was_loaded():
    for load in (False, True):
        model, optimizer = make("sgd", 2)
        if load:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        seen = []
        optimizer.register_step_pre_hook(lambda *_, m=model, s=seen: s.append(m.weight.grad.clone()))
        gradients = [torch.full((1, 4), value) for value in (1.0, 3.0)]
        for gradient in gradients:
            model.weight.grad = gradient.clone()
            optimizer.step()
        assert len(seen) == 1 and torch.equal(seen[0], torch.full((1, 4), 2.0)), f"state loaded: {load}"


def test_one_leaves_the_optimizer_and_zero_is_refused():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    assert type(with_accumulation(optimizer, 1)) is torch.optim.SGD
    with pytest.raises(ValueError, match="SOLVER.ACCUMULATE"):
        with_accumulation(optimizer, 0)


def test_under_a_gradient_scaler_a_pass_that_overflows_is_left_out():
    """Float16 gradients of two of three passes make the step; the one with an infinite gradient makes none."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = with_accumulation(torch.optim.SGD([weight], lr=1.0), 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for gradient in ([1.0, 2.0], [float("inf"), 0.0], [3.0, 0.0]):
        assert weight.tolist() == [0, 0]
        optimizer.zero_grad()
        scaler.scale((weight * torch.tensor(gradient)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert weight.tolist() == [-2.0, -1.0]
