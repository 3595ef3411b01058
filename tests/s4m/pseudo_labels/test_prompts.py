"""Points follow the softmax of the logits, without replacement."""

import itertools

import pytest
import torch

from s4m.pseudo_labels.prompts import sample_points


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_distribution_of_ordered_draws_without_replacement():
    soft = torch.tensor([[[0.5, 0.8], [0.2, 0.9]]])
    weight = (soft / (1 - soft)).flatten().tolist()
    points = sample_points(soft.expand(20000, 2, 2), 2, generator())
    index = (points[..., 1] * 2 + points[..., 0]).long()
    for first, second in itertools.permutations(range(4), 2):
        expected = weight[first] / sum(weight) * weight[second] / (sum(weight) - weight[first])
        share = ((index[:, 0] == first) & (index[:, 1] == second)).float().mean().item()
        assert share == pytest.approx(expected, abs=0.012)


def test_weights_are_the_softmax_of_the_logits():
    logits = torch.tensor([[[0.0, 1.0, -1.0], [2.0, 0.5, -0.5]]])
    points = sample_points(logits.sigmoid().expand(20000, 2, 3), 1, generator(1))
    share = torch.bincount((points[:, 0, 1] * 3 + points[:, 0, 0]).long(), minlength=6) / 20000
    torch.testing.assert_close(share, logits.flatten().softmax(0), atol=0.012, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_counts_and_no_repetition(count):
    soft = torch.rand(count, 13, 29, generator=generator())
    points = sample_points(soft, 5, generator())
    assert points.shape == (count, 5, 2)
    assert points.dtype == torch.float32
    assert (points >= 0).all()
    assert (points < torch.tensor([29, 13])).all()
    assert all(len({tuple(p) for p in some}) == 5 for some in points.tolist())


def test_a_small_object_in_a_large_map_gets_its_points():
    soft = torch.zeros(40, 200, 333)
    soft[:, 150:153, 300:303] = 0.99
    points = sample_points(soft, 3, generator())
    assert (soft[0, points[..., 1].long(), points[..., 0].long()] > 0).all()


def test_fewer_positive_pixels_than_points():
    soft = torch.zeros(1, 6, 7)
    soft[0, 4, 2] = 1.0
    points = sample_points(soft, 3, generator())[0]
    assert points[0].tolist() == [2, 4]
    assert len({tuple(p) for p in points.tolist()}) == 3


def test_fewer_pixels_than_points_repeats_the_last():
    points = sample_points(torch.tensor([[[0.9, 0.1]], [[1.0, 0.0]]]), 4, generator())
    assert points.shape == (2, 4, 2)
    assert torch.equal(points[:, 1], points[:, 2])
    assert torch.equal(points[:, 1], points[:, 3])
    assert (points[:, 0, 0] != points[:, 1, 0]).all()


def test_repeatable_whatever_is_drawn_at_once(monkeypatch):
    soft = torch.rand(9, 10, 10, generator=generator()).half()
    together = sample_points(soft, 3, generator(4))
    monkeypatch.setattr("s4m.pseudo_labels.prompts._CPU_CHUNK", 200)
    assert torch.equal(sample_points(soft, 3, generator(4)), together)
    assert not torch.equal(sample_points(soft, 3, generator(5)), together)
