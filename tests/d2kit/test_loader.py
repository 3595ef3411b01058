import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

from d2kit.loader import SeededDataset, StreamLoader
from d2kit.rng import derive_seed

SIZE = 7
CALLS = []


def noisy(d):
    CALLS.append(d["index"])
    d["nested"].append(1)
    draws = (random.random(), float(np.random.rand()), float(torch.rand(())))
    return {"index": d["index"], "draws": draws, "nested": d["nested"]}


def broken(d):
    if d["index"] == 3:
        raise ValueError("picture 3.png is torn")
    return d


def dicts(size=SIZE):
    return [{"index": i, "nested": []} for i in range(size)]


def uniform():
    return TrainingSampler(SIZE, shuffle=True, seed=5)


def repeated():
    return RepeatFactorTrainingSampler(torch.linspace(1, 2.5, SIZE), shuffle=True, seed=5)


def loader(batch=4, workers=0, seed=1, stream="labeled", sampler=uniform, mapper=noisy):
    return StreamLoader(dicts(), mapper, sampler(), batch, workers, seed, stream)


def take(stream, count):
    return list(itertools.islice(stream, count))


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)


def test_item_depends_on_its_seed_only_and_leaves_the_source_alone():
    source = dicts()
    dataset = SeededDataset(source, noisy)
    first, again, other = dataset[2, 11], dataset[2, 11], dataset[2, 12]
    assert first == again and first["seed"] == 11
    assert other["draws"] != first["draws"]
    assert source[2]["nested"] == [] and first["nested"] == [1]
    assert len(dataset) == SIZE


def test_sample_seeds_follow_the_global_position():
    items = [item for batch in take(loader(batch=2, seed=3), 3) for item in batch]
    assert [item["index"] for item in items] == take(uniform(), 6)
    assert [item["seed"] for item in items] == [derive_seed(3, "labeled", k) for k in range(6)]


@pytest.mark.parametrize("sampler", [uniform, repeated])
def test_workers_do_not_change_the_stream(sampler):
    alone = take(loader(sampler=sampler), 6)
    assert take(loader(sampler=sampler, workers=2), 6) == alone
    assert len(alone[0]) == 4


def test_streams_and_seeds_differ():
    base = [d["seed"] for d in take(loader(), 1)[0]]
    assert base != [d["seed"] for d in take(loader(stream="unlabeled"), 1)[0]]
    assert base != [d["seed"] for d in take(loader(seed=2), 1)[0]]


@pytest.mark.parametrize("sampler", [uniform, repeated])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_where_the_run_was(sampler, workers):
    whole = take(loader(sampler=sampler), 9)
    resumed = loader(sampler=sampler, workers=workers)
    resumed.set_start(5)
    CALLS.clear()
    assert take(resumed, 4) == whole[5:]
    if workers == 0:
        assert [d["index"] for batch in whole[5:] for d in batch] == CALLS


@pytest.mark.parametrize("sampler", [uniform, repeated])
def test_two_processes_together_see_what_one_sees(monkeypatch, sampler):
    whole = take(loader(sampler=sampler), 8)
    parts = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        part = loader(sampler=sampler)
        part.set_start(3)
        parts.append(take(part, 5))
    assert [len(batch) for batch in parts[0]] == [2] * 5
    merged = [[d for pair in zip(*batches, strict=True) for d in pair] for batches in zip(*parts, strict=True)]
    assert merged == whole[3:]


def test_global_generators_are_left_alone():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    take(loader(), 3)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_data_error_keeps_its_type_and_sentence(workers):
    with pytest.raises(ValueError, match=r"^picture 3.png is torn$"):
        take(loader(mapper=broken, workers=workers), 3)


def test_uneven_batch_names_the_key(monkeypatch):
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(ValueError, match="S4M.UNLABELED_BATCH is 3.*2 process"):
        StreamLoader(dicts(), noisy, uniform(), 3, 0, 1, "unlabeled", key="S4M.UNLABELED_BATCH")


@pytest.mark.parametrize("batch", [0, -2])
def test_batch_must_be_positive(batch):
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH"):
        loader(batch=batch)


def test_no_data_is_one_sentence():
    with pytest.raises(ValueError, match="labeled data set has no image"):
        StreamLoader([], noisy, uniform(), 2, 0, 1, "labeled")
