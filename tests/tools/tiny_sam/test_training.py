"""Training of the tiny SAM: the losses, and a run that stops and goes on."""

import math

import pytest
import torch
from torch.nn import functional as F

from tiny_sam.batches import Batches
from tiny_sam.training import OFFSETS, AffinityHead, TinySamTraining, affinity_loss, mask_loss, promptable_loss


def test_mask_loss_by_hand():
    logits = torch.tensor([[2.0, -1.0], [0.5, -3.0]])
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    p = [1 / (1 + math.exp(-x)) for x in (2, -1, 0.5, -3)]
    entropy = -(math.log(p[0]) + math.log(1 - p[1]) + math.log(p[2]) + math.log(1 - p[3])) / 4
    dice = 1 - (2 * (p[0] + p[2]) + 1) / (sum(p) + 2 + 1)
    assert mask_loss(logits, target).item() == pytest.approx(dice + 4 * entropy, rel=1e-5)


def test_a_perfect_answer_costs_nothing():
    target = torch.zeros(2, 8, 8)
    target[0, :4], target[1, :, 4:] = 1, 1
    logits = (F.avg_pool2d(target[:, None], 2) * 2 - 1).expand(-1, 4, -1, -1) * 1e4
    assert promptable_loss(logits, torch.ones(2, 4), target).item() < 0.2  # the resized edge is all that is left
    wrong = promptable_loss(-logits, torch.ones(2, 4), target).item()
    assert wrong > 100


def test_only_the_best_of_three_masks_is_pushed_hard():
    target = torch.zeros(1, 8, 8)
    target[:, 2:6, 2:6] = 1
    small = F.avg_pool2d(target[:, None], 2)
    good = (small * 2 - 1) * 3
    logits = torch.cat([good, -good, good, -good], dim=1).requires_grad_()
    promptable_loss(logits, torch.zeros(1, 4), target).backward()
    weak = torch.autograd.grad(0.5 / 3 * mask_loss(logits, small.expand_as(logits)).sum(), logits)[0]
    torch.testing.assert_close(logits.grad[:, [1, 3]], weak[:, [1, 3]])
    size, least = logits.grad.abs().sum((0, 2, 3)), weak.abs().sum((0, 2, 3))
    assert size[0] > 0 and size[2] > 3 * least[2]


def test_affinity_loss_by_hand():
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[:, :, 32:] = 1  # in cells of 4: columns 0 to 7 against 8 to 15
    right = torch.full((1, len(OFFSETS), 16, 16), 20.0)
    for index, (_, step) in enumerate(OFFSETS):
        if step:
            columns = range(8 - step, 8) if step > 0 else range(8, 8 - step)
            right[:, index, :, list(columns)] = -20.0
    assert affinity_loss(right, labels).item() == pytest.approx(0, abs=1e-6)
    # Undecided everywhere: log 2, and pairs across the edge weigh 4.
    crossing = [abs(step) / (16 - abs(step)) for _, step in OFFSETS]
    wanted = math.log(2) * sum(1 + 3 * share for share in crossing) / len(crossing)
    assert affinity_loss(torch.zeros_like(right), labels).item() == pytest.approx(wanted, rel=1e-5)


def test_affinity_moves_the_embedding():
    embedding = torch.randn(2, 128, 4, 4, requires_grad=True)
    logits = AffinityHead()(embedding)
    assert logits.shape == (2, len(OFFSETS), 16, 16)
    labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
    labels[:, 5:] = 1
    affinity_loss(logits, labels).backward()
    assert embedding.grad.abs().sum() > 0


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(scenes, options, tmp_path):
    batches = Batches(scenes, options(tmp_path))
    whole = TinySamTraining(options(tmp_path / "whole"))
    losses = [whole.step(batches[index]) for index in range(4)]
    first = TinySamTraining(options(tmp_path / "parts"))
    begun = [first.step(batches[index]) for index in range(2)]
    first.save()
    second = TinySamTraining(options(tmp_path / "parts"))
    assert second.iteration == 2
    assert begun + [second.step(batches[index]) for index in (2, 3)] == pytest.approx(losses, rel=1e-4)
    average = second.average.state_dict()
    for key, value in whole.average.state_dict().items():
        torch.testing.assert_close(average[key], value, rtol=1e-3, atol=1e-5)


def test_the_loop_ends_and_leaves_weights(options, tmp_path):
    training = TinySamTraining(options(tmp_path, iterations=2, pool=2))
    training.run()
    assert training.iteration == 2 and training.progress >= 1
    state = torch.load(tmp_path / "tiny_sam.pth", weights_only=True)
    assert state.keys() == training.model.state_dict().keys()
    assert all(value.dtype == torch.float16 for value in state.values())
    assert TinySamTraining(options(tmp_path, iterations=2)).progress >= 1


def test_time_ends_a_run_too(options, tmp_path):
    training = TinySamTraining(options(tmp_path, iterations=0, minutes=1 / 60))
    training.seconds = 0.5
    assert training.progress == pytest.approx(0.5)
