"""Scenes and options of a small training of the tiny SAM."""

from types import SimpleNamespace

import pytest

from tiny_sam.scenes import make_scenes

OPTIONS = {"images": 2, "pool": 6, "iterations": 4, "seed": 17, "rate": 1.2e-3, "device": "cpu", "workers": 0}


@pytest.fixture(scope="session")
def scenes():
    return make_scenes(5, 6)


@pytest.fixture(scope="session")
def options():
    return lambda output, **changes: SimpleNamespace(output=output, **OPTIONS | changes)
