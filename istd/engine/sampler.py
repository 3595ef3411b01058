"""Which image comes when: shuffled passes over the pool, exactly resumable although the pool grows."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from detectron2.utils import comm
from torch.utils.data import Sampler

from d2kit.rng import derive_seed


class PoolSampler(Sampler):
    """Infinite indices of the images that train, sharded by process.

    The index at a global position depends on the seed, the position and the pool at the time the iterator is made, and
    on nothing that came before: a run that is resumed with the same pool continues the same sequence. An epoch is a
    fixed number of items, in which the pool is passed as often as it takes, each pass in an order of its own.
    """

    def __init__(self, pool: Callable[[], Sequence[int]], items: int, seed: int):
        """
        Args:
            pool: gives the indices that may be drawn, in a fixed order; asked when an iterator is made.
            items: of an epoch, over all processes.
            seed: of the order.
        """
        self._pool, self._items, self._seed = pool, items, seed

    def __iter__(self) -> Iterator[int]:
        pool = list(self._pool())
        if not pool:
            raise ValueError("the pool of images to train on is empty.")
        known, order = None, None
        for position in itertools.count(comm.get_rank(), comm.get_world_size()):
            epoch, item = divmod(position, self._items)
            turn, place = divmod(item, len(pool))
            if (epoch, turn) != known:
                known = (epoch, turn)
                order = np.random.default_rng(derive_seed(self._seed, *known)).permutation(len(pool))
            yield pool[order[place]]
