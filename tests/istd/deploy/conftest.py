"""A network that is no network, so that what surrounds networks is tested in milliseconds."""

import numpy as np
import pytest

from istd.checkpoints import Recipe
from istd.deploy import ISTDPredictor, Runner


@pytest.fixture
def bright():
    """Function (**options) -> a predictor that gives grey / 255 as probability, on sides that are multiples of 4."""

    def make(**options) -> ISTDPredictor:
        recipe = Recipe("none", {"in_channels": 1}, mean=0.0, std=255.0, pad_multiple=4)

        def run(images):
            assert images.shape[1] == 1 and not np.any(np.remainder(images.shape[2:], 4))
            return images.clamp(0, 1)

        return ISTDPredictor(runner=Runner(run, recipe, 4), **options)

    return make
