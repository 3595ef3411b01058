"""Seeded, resumable batches of mapped dataset dicts: one stream for any number of workers, processes or restarts."""

import itertools
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from d2kit.rng import derive_seed, seeded

logger = logging.getLogger(__name__)


class _Failure(NamedTuple):
    """A data error that travels from a worker to the training process as it was raised."""

    error: Exception
    trace: str


class SeededDataset(Dataset):
    """Map-style data set whose items are asked for as (index, sample seed).

    The mapper gets its own copy of the dict and runs with `random`, NumPy and torch seeded by the sample seed; the
    generators of the process are put back afterwards.
    """

    def __init__(self, dicts: Sequence[dict], mapper: Callable[[dict], dict], skip_bad: bool = False) -> None:
        """
        Args:
            dicts: Detectron2 dataset dicts, kept serialized so that workers share their memory.
            mapper: one dict -> one mapped dict, never None.
            skip_bad: whether the dict that follows takes the place of one whose data cannot be read, with a warning.
        """
        self._dicts = DatasetFromList(list(dicts), copy=False, serialize=True)
        self._mapper = mapper
        self._skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self._dicts)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        """Return the mapped dict with `seed`, the sample seed (int), added."""
        index, sample_seed = item
        last = index + len(self) - 1 if self._skip_bad else index
        for number in range(index, last + 1):
            try:
                with seeded(sample_seed):
                    result = self._mapper(self._dicts[number % len(self)])
            except (ValueError, OSError) as error:
                if number == last:
                    raise
                logger.warning("%s; another image takes its place.", error)
            else:
                return result | {"seed": sample_seed}
        raise IndexError(index)


class _GuardedDataset(Dataset):
    """Hands errors in the data back as values, because torch would rewrite their message."""

    def __init__(self, dataset: SeededDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> dict | _Failure:
        try:
            return self._dataset[item]
        except (ValueError, OSError) as error:
            return _Failure(error, traceback.format_exc())


class SeededSampler(Sampler):
    """Pairs of (index, sample seed) from an infinite Detectron2 training sampler.

    Item k of process r has the global position k * world_size + r, and its seed depends on (seed, stream, position)
    only: n processes see together what one process sees alone.
    """

    def __init__(self, sampler: Iterable[int], seed: int, stream: str, start: int = 0) -> None:
        """
        Args:
            sampler: infinite sampler that is already sharded by process, as Detectron2's are.
            seed: seed of the run.
            stream: name that keeps the seeds of several streams apart.
            start: items of this process to pass over.
        """
        self._sampler = sampler
        self._seed = seed
        self._stream = stream
        self._start = start
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for k, index in enumerate(itertools.islice(self._sampler, self._start, None), start=self._start):
            yield index, derive_seed(self._seed, self._stream, k * self._world_size + self._rank)


def _as_list(batch: list) -> list:
    return batch


class StreamLoader:
    """Endless lists of mapped dicts, each list this process's share of one global batch."""

    def __init__(
        self,
        dicts: Sequence[dict],
        mapper: Callable[[dict], dict],
        sampler: Iterable[int],
        batch_size_total: int,
        num_workers: int,
        seed: int,
        stream: str,
        *,
        key: str = "SOLVER.IMS_PER_BATCH",
        skip_bad: bool = False,
    ) -> None:
        """
        Args:
            dicts: Detectron2 dataset dicts.
            mapper: one dict -> one mapped dict.
            sampler: infinite sampler over `range(len(dicts))`, sharded by process, with a seed of its own.
            batch_size_total: images a batch over all processes.
            num_workers: worker processes; 0 maps in this process and leaves its random generators as they were.
            seed: seed of the run, from which the samples' seeds follow.
            stream: name that keeps the seeds of several streams apart.
            key: configuration key of the batch size, for the message.
            skip_bad: as of `SeededDataset`.

        Raises:
            ValueError: no data, or a batch that the processes cannot share evenly.
        """
        world_size = comm.get_world_size()
        if len(dicts) == 0:
            raise ValueError(f"the {stream} data set has no image to load")
        if batch_size_total < 1 or batch_size_total % world_size:
            raise ValueError(
                f"{key} is {batch_size_total}, which is not a positive multiple of the {world_size} process(es)"
            )
        self.batch_size = batch_size_total // world_size
        self.dataset = SeededDataset(dicts, mapper, skip_bad)
        self._sampler = sampler
        self._num_workers = num_workers
        self._seed = seed
        self._stream = stream
        self._iteration = 0

    def set_start(self, iteration: int) -> None:
        """Let iterators made from now on begin with batch number `iteration`, without mapping those before it."""
        self._iteration = iteration

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        start = self._iteration * self.batch_size
        sampler = SeededSampler(self._sampler, self._seed, self._stream, start)
        batches = DataLoader(
            _GuardedDataset(self.dataset),
            batch_sampler=BatchSampler(sampler, self.batch_size, drop_last=True),
            num_workers=self._num_workers,
            collate_fn=_as_list,
            # Without its own generator the loader draws a number from the global one.
            generator=torch.Generator().manual_seed(derive_seed(self._seed, self._stream)),
        )
        for batch in batches:
            for item in batch:
                if isinstance(item, _Failure):
                    raise item.error from RuntimeError(item.trace)
            yield batch
