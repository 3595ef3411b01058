"""The pool's sampler: coverage, resuming, growth, sharing over processes."""

from itertools import islice

import pytest
from detectron2.utils import comm

from istd.engine.sampler import PoolSampler


def draw(pool, count, start=0, items=10, seed=5):
    return list(islice(PoolSampler(lambda: pool, items, seed), start, count))


def test_an_epoch_passes_the_whole_pool():
    order = draw([2, 3, 5, 7], 10)
    assert sorted(order[:4]) == sorted(order[4:8]) == [2, 3, 5, 7]
    assert set(order[8:]) <= {2, 3, 5, 7}
    assert draw([2, 3, 5, 7], 40)[:4] != draw([2, 3, 5, 7], 40)[10:14] or order[:4] != order[4:8]


def test_the_sequence_depends_on_the_seed_alone():
    assert draw(range(9), 60) == draw(range(9), 60)
    assert draw(range(9), 60) != draw(range(9), 60, seed=6)


def test_a_later_start_continues_the_sequence_whatever_the_pool_was():
    assert draw([1, 4], 30, start=17) == draw([1, 4], 30)[17:]


def test_the_pool_is_asked_when_an_iterator_is_made():
    pool = [0]
    sampler = PoolSampler(lambda: pool, 4, 0)
    assert set(islice(sampler, 8)) == {0}
    pool.append(1)
    assert set(islice(sampler, 8)) == {0, 1}


def test_processes_share_the_sequence(monkeypatch):
    alone = draw(range(7), 20)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(draw(range(7), 10))
    assert [index for pair in zip(*parts, strict=True) for index in pair] == alone


def test_an_empty_pool_is_an_error():
    with pytest.raises(ValueError, match="pool of images to train on is empty"):
        draw([], 1)
