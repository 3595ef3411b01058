"""Seeded, resumable batches of mapped dataset dicts, the same for any number of workers, processes or restarts."""

import itertools
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader, Dataset

from d2kit.rng import derive_seed, seeded

logger = logging.getLogger(__name__)


class _Failure(NamedTuple):
    """A data error that travels from a worker to the training process as it was raised."""

    error: Exception
    trace: str


class SeededDataset(Dataset):
    """A map-style data set whose items are requested by pairs of an index and a sample seed.

    The mapper gets its own copy of the dict and runs with `random`, NumPy and torch seeded by the sample seed; the
    states of the generators are restored afterwards.
    """

    def __init__(self, dicts: Sequence[dict], mapper: Callable[[dict], dict], skip_bad: bool = False) -> None:
        """
        Args:
            dicts: Detectron2 dataset dicts, kept serialized so that workers share their memory.
            mapper: function from one dict to one mapped dict, never to None.
            skip_bad: whether the dict that follows replaces, with a warning, one whose data cannot be read.
        """
        self._dicts = DatasetFromList(list(dicts), copy=False, serialize=True)
        self._mapper = mapper
        self._skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self._dicts)

    def __getitem__(self, item: tuple[int, int]) -> dict | _Failure:
        """Return the mapped dict with `seed`, the sample seed (int), added; an error in the data is a value."""
        index, sample_seed = item
        last = index + len(self) - 1 if self._skip_bad else index
        for number in range(index, last + 1):
            try:
                with seeded(sample_seed):
                    result = self._mapper(self._dicts[number % len(self)])
            except (ValueError, OSError) as error:
                if number == last:  # torch would rewrite the message of an error that a worker raises.
                    return _Failure(error, traceback.format_exc())
                logger.warning("%s Another image takes its place.", error)
            else:
                return result | {"seed": sample_seed}
        raise IndexError(index)


class StreamLoader:
    """Endless lists of mapped dicts; each list is this process's share of one global batch."""

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
            mapper: function from one dict to one mapped dict.
            sampler: infinite sampler over `range(len(dicts))`, sharded by process, with a seed of its own.
            batch_size_total: number of images in a batch over all processes.
            num_workers: number of worker processes; 0 maps in this process, whose random generators stay as they were.
            seed: seed of the run, from which the samples' seeds follow.
            stream: name that keeps the seeds of several streams apart.
            key: configuration key of the batch size, for the message.
            skip_bad: as of `SeededDataset`.

        Raises:
            ValueError: there are no dicts, or the processes cannot share a batch evenly.
        """
        world_size = comm.get_world_size()
        if len(dicts) == 0:
            raise ValueError(f"The {stream} data set has no image to load.")
        if batch_size_total < 1 or batch_size_total % world_size:
            raise ValueError(
                f"{key} is {batch_size_total}, which is not a positive multiple of the {world_size} process(es)."
            )
        self.batch_size = batch_size_total // world_size
        self.dataset = SeededDataset(dicts, mapper, skip_bad)
        self._sampler = sampler
        self._num_workers = num_workers
        self._seed = seed
        self._stream = stream
        self._iteration = 0

    def set_start(self, iteration: int) -> None:
        """Let later iterators begin with batch number `iteration`, without mapping the batches before it."""
        self._iteration = iteration

    def _seeded_indices(self) -> Iterator[tuple[int, int]]:
        """Yield this process's pairs of an index and a sample seed.

        Item k of process r has the global position k * world_size + r. The sample seed depends only on the seed of the
        run, the stream and that position, so several processes together see what one process sees alone.
        """
        rank = comm.get_rank()
        world_size = comm.get_world_size()
        start = self._iteration * self.batch_size
        for k, index in enumerate(itertools.islice(self._sampler, start, None), start):
            yield index, derive_seed(self._seed, self._stream, k * world_size + rank)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        batches = DataLoader(
            self.dataset,
            batch_sampler=BatchSampler(self._seeded_indices(), self.batch_size, drop_last=True),
            num_workers=self._num_workers,
            collate_fn=list,
            # Without its own generator the loader draws a number from the global one.
            generator=torch.Generator().manual_seed(derive_seed(self._seed, self._stream)),
        )
        for batch in batches:
            for item in batch:
                if isinstance(item, _Failure):
                    raise item.error from RuntimeError(item.trace)
            yield batch
