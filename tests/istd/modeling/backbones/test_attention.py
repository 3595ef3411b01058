"""Attention and the blocks built on it, by hand."""

import torch
from torch import nn

from istd.modeling.backbones.attention import (
    AttentionResidual,
    ChannelAttention,
    SpatialAttention,
    SqueezeExcite,
    squeezed_convs,
)
from istd.modeling.backbones.blocks import Residual


def test_channel_attention_shares_its_layers():
    torch.manual_seed(0)
    attention, x = ChannelAttention(8, 4), torch.randn(2, 8, 5, 6)
    first, last = attention.se[0].weight[..., 0, 0], attention.se[2].weight[..., 0, 0]
    average, greatest = (y.clamp(min=0) @ last.T for y in (x.mean((2, 3)) @ first.T, x.amax((2, 3)) @ first.T))
    assert torch.allclose(attention(x)[..., 0, 0], (average + greatest).sigmoid(), atol=1e-6)


def test_spatial_attention_in_both_orders():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 9, 9)
    mean, greatest = x.mean(1), x.amax(1)
    for attention, planes in (
        (SpatialAttention(), (mean, greatest)),
        (SpatialAttention(bias=True, max_first=True), (greatest, mean)),
    ):
        kernel = attention.conv.weight[0]
        value = sum((kernel[i] * plane[0, 1:8, 1:8]).sum() for i, plane in enumerate(planes))
        value = value + (0 if attention.conv.bias is None else attention.conv.bias[0])
        assert torch.allclose(attention(x)[0, 0, 4, 4], value.sigmoid(), atol=1e-6)
    assert attention.conv.bias is not None and SpatialAttention().conv.bias is None


def test_squeeze_and_excitation():
    torch.manual_seed(0)
    block, x = SqueezeExcite(8), torch.randn(2, 8, 3, 3)
    first, last = block.gate[0].weight, block.gate[2].weight
    gate = ((x.mean((2, 3)) @ first.T).clamp(min=0) @ last.T).sigmoid()
    assert torch.allclose(block(x), x * gate[:, :, None, None], atol=1e-6)
    residual = Residual(squeezed_convs(8, 8)).eval()
    a, bn_a, _, squeeze, b, bn_b = residual.layer
    expected = (bn_b(b(squeeze(bn_a(a(x)).clamp(min=0)))) + x).clamp(min=0)
    assert torch.allclose(residual(x), expected, atol=1e-6)


def test_attention_residual_weighs_channels_then_cells_then_adds_the_shortcut():
    torch.manual_seed(0)
    for inputs in (4, 16):
        block, x = AttentionResidual(inputs, 16).eval(), torch.randn(2, inputs, 8, 8)
        y = block.layer(x)
        y = block.channels(y) * y
        y = block.cells(y) * y
        assert torch.allclose(block(x), (y + block.shortcut(x)).clamp(min=0), atol=1e-6)
        assert isinstance(block.shortcut, nn.Identity) == (inputs == 16)
