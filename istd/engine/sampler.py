"""The order of the training images: shuffled passes over the pool, exactly resumable although the pool grows."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from detectron2.utils import comm
from torch.utils.data import Sampler

from d2kit.rng import derive_seed


class PoolSampler(Sampler):
    """Infinite indices of the images in the pool, sharded by process.

    The index at a global position depends only on the seed, the position and the pool at the time the iterator is made,
    so a run that resumes with the same pool continues the same sequence. An epoch is a fixed number of items. It holds
    as many passes over the pool as fit, each in its own order.

    Example: with 10 items an epoch and the pool [2, 3, 5], positions 0-2, 3-5 and 6-8 are three shuffles of the pool,
    position 9 begins a fourth, and position 10 begins the next epoch with a new shuffle.
    """

    def __init__(self, pool: Callable[[], Sequence[int]], items: int, seed: int):
        """
        Args:
            pool: returns the indices to sample from, in a fixed order; called whenever an iterator is made.
            items: items of an epoch, over all processes.
            seed: seed of the order.
        """
        self._pool = pool
        self._items = items
        self._seed = seed

    def __iter__(self) -> Iterator[int]:
        pool = list(self._pool())
        if not pool:
            raise ValueError("the pool of images to train on is empty.")
        shuffled = None
        for position in itertools.count(comm.get_rank(), comm.get_world_size()):
            epoch, item = divmod(position, self._items)
            turn, place = divmod(item, len(pool))
            if (epoch, turn) != shuffled:
                shuffled = (epoch, turn)
                order = np.random.default_rng(derive_seed(self._seed, epoch, turn)).permutation(len(pool))
            yield pool[order[place]]
