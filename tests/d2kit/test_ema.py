"""The moving average against a hand-written one."""

import torch
from torch import nn

from d2kit.ema import update_ema


def pair():
    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))  # noqa: E731
    return make(), make()


def test_by_hand():
    teacher, student = pair()
    student(torch.randn(4, 1, 3, 3))
    expected = 0.9 * teacher[0].weight + 0.1 * student[0].weight
    mean = 0.9 * teacher[1].running_mean + 0.1 * student[1].running_mean
    before = student[0].weight.clone()
    update_ema(teacher, student, 0.9)
    torch.testing.assert_close(teacher[0].weight, expected)
    torch.testing.assert_close(teacher[1].running_mean, mean)
    assert teacher[1].num_batches_tracked == student[1].num_batches_tracked == 1
    assert torch.equal(student[0].weight, before)


def test_decay_zero_copies_and_one_keeps():
    teacher, student = pair()
    kept = teacher[0].weight.clone()
    update_ema(teacher, student, 1.0)
    assert torch.equal(teacher[0].weight, kept)
    update_ema(teacher, student, 0.0)
    for a, b in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
        assert torch.equal(a, b)
