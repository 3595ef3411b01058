"""Networks without a training: one that is no network, so that tests take milliseconds, and those of random weights."""

import numpy as np
import pytest
import torch
from torch import nn

from istd.checkpoints import Recipe
from istd.deploy import ISTDPredictor, Runner
from istd.modeling import Network, build_network


@pytest.fixture
def bright():
    """Function (**options) -> a predictor that gives gray / 255 as probability, on sides that are multiples of 4."""

    def make(**options) -> ISTDPredictor:
        recipe = Recipe("none", {"in_channels": 1}, mean=0.0, std=255.0, pad_multiple=4)

        def run(images):
            assert images.shape[1] == 1 and not np.any(np.remainder(images.shape[2:], 4))
            return images.clamp(0, 1)

        return ISTDPredictor(runner=Runner(run, recipe, 4), **options)

    return make


@pytest.fixture(scope="session")
def build_settled():
    """Function (name) -> the network with random weights and BatchNorm statistics of a batch, in eval mode."""

    def build(name: str) -> Network:
        torch.manual_seed(0)
        network = build_network(name)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        with torch.no_grad():
            network.train()(torch.randn(2, 3, 64, 64))
        return network.eval()

    return build
