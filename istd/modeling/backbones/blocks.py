"""Layers that several ISTD networks share."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def same_conv(inputs: int, outputs: int, kernel: int, *, dilation: int = 1, **options) -> nn.Conv2d:
    """Build a convolution whose padding keeps the size at stride 1; `options` are those of `nn.Conv2d`."""
    return nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, **options)


def conv_norm_relu(inputs: int, outputs: int, kernel: int, **options) -> list[nn.Module]:
    """Build a `same_conv`, BatchNorm and ReLU."""
    return [same_conv(inputs, outputs, kernel, **options), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def two_convs(inputs: int, outputs: int) -> nn.Sequential:
    """Build conv3, BN, ReLU, conv3, BN; (B, inputs, H, W) -> (B, outputs, H, W)."""
    return nn.Sequential(*conv_norm_relu(inputs, outputs, 3), same_conv(outputs, outputs, 3), nn.BatchNorm2d(outputs))


def shortcut(inputs: int, outputs: int) -> nn.Module:
    """Build a conv1 and BN if the width changes, else the identity."""
    if inputs == outputs:
        return nn.Identity()
    return nn.Sequential(same_conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))


def resize(factor: float) -> nn.Upsample:
    """Build a bilinear resize by `factor` that keeps the corners in place."""
    return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=True)


class Residual(nn.Module):
    """ReLU(input + layer(input)); (B, c, H, W) -> (B, c, H, W)."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x) + x)


class DownResidual(nn.Module):
    """D(a, b): a pooled path of two convolutions plus a strided one; (B, a, H, W) -> (B, b, H/2, W/2), H and W even."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layer1 = nn.Sequential(
            *conv_norm_relu(inputs, outputs, 3),
            nn.MaxPool2d(2),
            same_conv(outputs, outputs, 3),
            nn.BatchNorm2d(outputs),
        )
        self.layer2 = nn.Sequential(*conv_norm_relu(inputs, outputs, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer1(x) + self.layer2(x))


class ResidualStages(nn.Module):
    """Encoder of the ALCL family: a stem, `blocks` residual blocks, and a down-sampling stage for each further width.

    Args:
        in_channels: channels of the image.
        channels: width of each stage; stage l has stride 2**l.
        blocks: residual blocks in each stage, including the down-sampling block.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], blocks: int = 3):
        super().__init__()
        self.depth = len(channels)
        self.blocks = blocks
        first = channels[0]
        self.layer1 = nn.Sequential(*conv_norm_relu(in_channels, first, 3), *conv_norm_relu(first, first, 3))
        for stage, width in enumerate(channels, start=1):
            for block in range(1, blocks + 1):
                down = stage > 1 and block == 1
                layer = DownResidual(channels[stage - 2], width) if down else Residual(two_convs(width, width))
                self.add_module(f"resnet{stage}_{block}", layer)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute all outputs, finest first; the sides of (B, in_channels, H, W) are multiples of 2**(stages - 1)."""
        features = []
        x = self.layer1(x)
        for stage in range(1, self.depth + 1):
            for block in range(1, self.blocks + 1):
                x = self.get_submodule(f"resnet{stage}_{block}")(x)
            features.append(x)
        return features


class BasicBlock(nn.Module):
    """ResNet's basic block without biases; the shortcut is a conv1 without bias and BN if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, momentum: float = 0.9):
        super().__init__()
        self.conv1 = same_conv(inputs, outputs, 3, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = same_conv(outputs, outputs, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = same_conv(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs, momentum=momentum))

    def forward(self, x: Tensor) -> Tensor:
        projected = self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + projected)


def basic_stage(inputs: int, outputs: int, blocks: int, stride: int = 1, momentum: float = 0.9) -> nn.Sequential:
    """Build `blocks` basic blocks; the first one changes width and stride."""
    first = BasicBlock(inputs, outputs, stride, momentum)
    return nn.Sequential(first, *[BasicBlock(outputs, outputs) for _ in range(blocks - 1)])


def pooled_stages(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """Run stages with max-pooling by two between them and return their features, finest first.

    Args:
        stages: modules that keep the size.
        x: (B, C, H, W), whose sides are multiples of 2**(stages - 1).
    """
    features = []
    for stage in stages:
        features.append(stage(F.max_pool2d(features[-1], 2) if features else x))
    return features


def kaiming_init(module: nn.Module) -> None:
    """Initialize the ALCL family: Kaiming-normal (fan out, ReLU) convolutions, biases 0, BatchNorm 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
