"""Attention over channels and over cells, and residual blocks that use it."""

import torch
from torch import Tensor, nn

from istd.modeling.backbones.blocks import conv_norm_relu, same_conv, shortcut, two_convs


class ChannelAttention(nn.Module):
    """Gates of the channels: two conv1 without bias map the global average and maximum; a sigmoid takes their sum.

    Args:
        channels: number c of channels.
        reduction: the hidden layer has c // reduction channels.
    """

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        inner = channels // reduction
        self.se = nn.Sequential(
            same_conv(channels, inner, 1, bias=False), nn.ReLU(inplace=True), same_conv(inner, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the gates: (B, c, H, W) -> (B, c, 1, 1) in (0, 1)."""
        average = x.mean((2, 3), keepdim=True)
        maximum = x.amax((2, 3), keepdim=True)
        return torch.sigmoid(self.se(average) + self.se(maximum))


class SpatialAttention(nn.Module):
    """Gates of the cells: a conv7 and a sigmoid take the mean and the maximum over the channels.

    Args:
        bias: the convolution has a bias.
        max_first: the maximum is the first of the two input channels, instead of the mean.
    """

    def __init__(self, *, bias: bool = False, max_first: bool = False):
        super().__init__()
        self.conv = same_conv(2, 1, 7, bias=bias)
        self.max_first = max_first

    def forward(self, x: Tensor) -> Tensor:
        """Compute the gates: (B, c, H, W) -> (B, 1, H, W) in (0, 1)."""
        pair = [x.mean(1, keepdim=True), x.amax(1, keepdim=True)]
        return torch.sigmoid(self.conv(torch.cat(pair[::-1] if self.max_first else pair, dim=1)))


class SqueezeExcite(nn.Module):
    """SE: two linear layers without bias, c -> c/4 -> c, turn the global average into gates of the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(channels, channels // 4, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 4, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels: (B, c, H, W) -> (B, c, H, W)."""
        return x * self.gate(x.mean((2, 3)))[..., None, None]


def squeezed_convs(inputs: int, outputs: int) -> nn.Sequential:
    """Build conv3, BN, ReLU, SE, conv3, BN; (B, inputs, H, W) -> (B, outputs, H, W)."""
    return nn.Sequential(
        *conv_norm_relu(inputs, outputs, 3),
        SqueezeExcite(outputs),
        same_conv(outputs, outputs, 3),
        nn.BatchNorm2d(outputs),
    )


class AttentionResidual(nn.Module):
    """B(a, b), the CBAM residual block of MSHNet and DNANet; (B, a, H, W) -> (B, b, H, W).

    Two convolutions, channel attention and spatial attention follow each other. A ReLU takes their sum with the input,
    which passes a conv1 and BN if a is not b.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layer = two_convs(inputs, outputs)
        self.channels = ChannelAttention(outputs, 16)
        self.cells = SpatialAttention()
        self.shortcut = shortcut(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y = y * self.channels(y)
        y = y * self.cells(y)
        return torch.relu(y + self.shortcut(x))


def attention_stage(inputs: int, outputs: int, blocks: int = 2) -> nn.Sequential:
    """Build `blocks` blocks B; the first one changes the width."""
    rest = [AttentionResidual(outputs, outputs) for _ in range(blocks - 1)]
    return nn.Sequential(AttentionResidual(inputs, outputs), *rest)
