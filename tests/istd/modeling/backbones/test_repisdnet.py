"""RepISDNet: its blocks by hand, and the merge."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from istd.modeling import build_network
from istd.modeling.backbones.repisdnet import EdgeCompensation, average_bins


def trained(network: nn.Module) -> nn.Module:
    """With BatchNorm layers and biases as far from their first values as a training takes them."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.bias, std=0.3)
            nn.init.normal_(layer.running_mean, std=0.3)
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.3)
    return network.eval()


@pytest.mark.parametrize("channels", [(4, 6), (5, 5)])
def test_block_by_hand(channels):
    torch.manual_seed(0)
    block, x = trained(EdgeCompensation(*channels)), torch.randn(2, channels[0], 7, 7)
    kernel = block.difference.weight
    central = F.conv2d(x, kernel, padding=1) - F.conv2d(x, kernel.sum((2, 3), keepdim=True))
    y = block.plain_norm(block.plain(x)) + block.difference_norm(central) + block.point_norm(block.point(x))
    y = y + block.identity_norm(x) if channels[0] == channels[1] else y
    assert torch.allclose(block(x), y.clamp(min=0), atol=1e-5)
    assert torch.allclose(block.merge()(x), block(x), atol=1e-5)


def test_merged_network_gives_equal_outputs():
    torch.manual_seed(0)
    network = trained(build_network("RepISDNet"))
    merged = network.merge()
    x = torch.randn(2, 3, 36, 50)
    with torch.no_grad():
        expected = network(x)
        assert (merged(x) - expected).abs().max() < 1e-5
        # What the published merge leaves out is not small.
        for block in network.modules():
            if isinstance(block, EdgeCompensation):
                block.point.bias.zero_()
        assert (network(x) - expected).abs().max() > 1e-2
    assert not merged.training and merged.merge().state_dict().keys() == merged.state_dict().keys()


def test_merge_keeps_modulation_points():
    torch.manual_seed(0)
    network = trained(build_network("RepISDNet"))
    merged, x = network.merge(), torch.randn(1, 3, 16, 24)
    for one, two in zip(network.encoder(x), merged.encoder(x), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_merging_is_nothing_for_other_networks():
    network = build_network("MLCLNet")
    assert network.merge() is network


@pytest.mark.parametrize("size", [(4, 4), (7, 12), (64, 33), (1, 2)])
def test_bins_are_those_of_adaptive_pooling(size):
    x = torch.randn(2, 3, *size)
    for bins in (1, 2, 3, 6):
        assert torch.allclose(average_bins(x, bins), F.adaptive_avg_pool2d(x, bins), atol=1e-6)
