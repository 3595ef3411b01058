"""Batches that the tiny SAM is trained on."""

import numpy as np
import pytest
import torch

from tiny_sam.batches import KINDS, PROMPTS, Batches, draw_pool, make_batch


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_batches_of_every_kind(scenes, kind, monkeypatch):
    monkeypatch.setattr("tiny_sam.batches.KINDS", {kind: 1.0})
    batch = make_batch(scenes, 3, np.random.default_rng(0))
    count, with_box, with_mask = kind
    assert batch.images.shape == (3, 3, 128, 128) and batch.targets.shape == (3 * PROMPTS, 128, 128)
    assert batch.targets.flatten(1).any(1).all()
    assert (batch.points is not None) == (count > 0) and (batch.boxes is not None) == with_box
    assert (batch.masks is not None) == with_mask
    if count:
        assert batch.points.shape == (3 * PROMPTS, count, 2) and batch.point_labels.shape == (3 * PROMPTS, count)
    if with_mask:
        assert batch.masks.shape == (3 * PROMPTS, 1, 64, 64)
    assert batch.labels.shape == (3, 128, 128)
    for index, target in enumerate(batch.targets):  # each target is one whole object of its image
        marks = batch.labels[index // PROMPTS][target > 0].unique()
        assert len(marks) == 1 and torch.equal(batch.labels[index // PROMPTS] == marks, target > 0)


def test_workers_draw_the_same(scenes, options, tmp_path):
    alone, helped = (options(tmp_path, workers=workers, pool=3) for workers in (0, 2))
    for one, other in zip(draw_pool(alone, part=2), draw_pool(helped, part=2), strict=True):
        assert np.array_equal(one, other)
    first = [next(Batches(scenes, choice).loader(3)) for choice in (alone, helped)]
    assert torch.equal(first[0].images, first[1].images) and torch.equal(first[0].targets, first[1].targets)
