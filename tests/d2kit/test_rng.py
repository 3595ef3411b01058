"""Seeds depend on their parts alone, and a seeded block disturbs nobody."""

import random

import numpy as np
import torch

from d2kit.rng import derive_seed, seed_everything, seeded


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_derived_seeds_are_fixed_and_differ():
    assert derive_seed(1, "labeled", 2) == derive_seed(1, "labeled", 2)
    seeds = {derive_seed(a, b, c) for a in range(5) for b in ("x", "y") for c in range(50)}
    assert len(seeds) == 500 and all(0 <= s < 2**31 for s in seeds)


def test_seeded_block_repeats_and_restores():
    seed_everything(3)
    expected = draw(), draw()
    seed_everything(3)
    first = draw()
    with seeded(7):
        inside = draw()
    second = draw()
    assert (first, second) == expected
    with seeded(7):
        assert draw() == inside
