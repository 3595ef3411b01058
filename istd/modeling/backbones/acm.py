"""ACM and ALCNet: small ResNet encoders with decoders that fuse by asymmetric bi-directional attention."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from istd.modeling.backbones.blocks import basic_stage, same_conv
from istd.modeling.backbones.network import NETWORK_REGISTRY, Network


def _norm(norm: str, channels: int, momentum: float) -> nn.Module:
    if norm == "BN":
        return nn.BatchNorm2d(channels, momentum=momentum)
    if norm == "GN":
        return nn.GroupNorm(1, channels)
    raise ValueError(f"norm '{norm}' is unknown: choose one of GN, BN.")


def _stem(in_channels: int, momentum: float) -> nn.Sequential:
    layers = [nn.BatchNorm2d(in_channels, momentum=momentum)]
    for inputs, outputs, stride in ((in_channels, 8, 2), (8, 8, 1), (8, 16, 1)):
        layers += [
            same_conv(inputs, outputs, 3, stride=stride, bias=False),
            nn.BatchNorm2d(outputs, momentum=momentum),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))


def _deconv(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


class AsymmetricFusion(nn.Module):
    """A(c): the pooled deep map weights the shallow map's channels, and the shallow map the deep one's cells.

    A training batch of one image raises with norm "BN", because the pooled branch then has one value in each channel.
    """

    def __init__(self, channels: int, norm: str, momentum: float):
        super().__init__()
        self.topdown = nn.Sequential(nn.AdaptiveAvgPool2d(1), *self._weights(channels, norm, momentum))
        self.bottomup = nn.Sequential(*self._weights(channels, norm, momentum))
        post = _norm(norm, channels, momentum)
        self.post = nn.Sequential(same_conv(channels, channels, 3), post, nn.ReLU(inplace=True))

    @staticmethod
    def _weights(channels: int, norm: str, momentum: float) -> list[nn.Module]:
        inner = channels // 4
        return [
            same_conv(channels, inner, 1),
            _norm(norm, inner, momentum),
            nn.ReLU(inplace=True),
            same_conv(inner, channels, 1),
            _norm(norm, channels, momentum),
            nn.Sigmoid(),
        ]

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """Fuse two (B, c, H, W) maps to (B, c, H, W)."""
        return self.post(2 * shallow * self.topdown(deep) + 2 * deep * self.bottomup(shallow))


def fcn_head(channels: int, momentum: float) -> nn.Sequential:
    """Build a conv3 without bias to a quarter of the channels, BN, ReLU, Dropout 0.1 and a conv1 to one logit."""
    inner = channels // 4
    block = nn.Sequential(
        same_conv(channels, inner, 3, bias=False),
        nn.BatchNorm2d(inner, momentum=momentum),
        nn.ReLU(inplace=True),
        nn.Dropout(0.1),
        same_conv(inner, 1, 1),
    )
    return nn.Sequential(OrderedDict(block=block))


def _rename_published_head(module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    for key in [key for key in state_dict if key.startswith(f"{prefix}head.")]:
        state_dict[f"{prefix}classifier.{key.removeprefix(f'{prefix}head.')}"] = state_dict.pop(key)


class _ACMFamily(Network):
    stage_channels = (16, 32, 64)
    strides = (4, 8, 16)
    multiple = 16
    modulation_scale = 0.55  # not published; it is the scale of MLCLNet, which also has three stages
    blocks: int

    def __init__(self, *, in_channels: int = 3, norm: str = "GN", momentum: float = 0.9):
        super().__init__()
        self.register_load_state_dict_pre_hook(_rename_published_head)
        self.stem = _stem(in_channels, momentum)
        self.layer1 = basic_stage(16, 16, self.blocks, momentum=momentum)
        self.layer2 = basic_stage(16, 32, self.blocks, stride=2, momentum=momentum)
        self.layer3 = basic_stage(32, 64, self.blocks, stride=2, momentum=momentum)
        self.deconv2 = _deconv(64, 32)
        self.uplayer2 = basic_stage(32, 32, self.blocks, momentum=momentum)
        self.deconv1 = _deconv(32, 16)
        self.uplayer1 = basic_stage(16, 16, self.blocks, momentum=momentum)

    def stages(self, x: Tensor) -> list[Tensor]:
        first = self.layer1(self.stem(x))
        second = self.layer2(first)
        return [first, second, self.layer3(second)]

    def output_layer(self) -> nn.Conv2d:
        return self.classifier.block[-1]


@NETWORK_REGISTRY.register()
class ACM(_ACMFamily):
    """ACM (ResUNet form): 397,971 parameters with 3 channels and norm GN, 397,823 with 1 channel and BN.

    Args:
        in_channels: channels of the image.
        norm: norm of the fusions; "GN" (one group) or "BN" (as in published LESPS checkpoints).
        momentum: BatchNorm momentum of stem, shortcuts, fusions and classifier. With the published 0.9 the running
            statistics are almost those of the last batch; 0.1 averages over more batches.
    """

    blocks = 3

    def __init__(self, *, in_channels: int = 3, norm: str = "GN", momentum: float = 0.9):
        super().__init__(in_channels=in_channels, norm=norm, momentum=momentum)
        self.fuse2 = AsymmetricFusion(32, norm, momentum)
        self.fuse1 = AsymmetricFusion(16, norm, momentum)
        self.classifier = fcn_head(16, momentum)

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        first, second, third = features
        x = self.uplayer2(self.fuse2(self.deconv2(third), second))
        x = self.uplayer1(self.fuse1(self.deconv1(x), first))
        return [F.interpolate(self.classifier(x), scale_factor=4, mode="bilinear", align_corners=False)]


@NETWORK_REGISTRY.register()
class ALCNet(_ACMFamily):
    """ALCNet: 520,037 parameters with 3 channels and norm GN, 519,889 with 1 channel and BN.

    The published network has `uplayer1` and `uplayer2`, but the forward pass does not use them. They are frozen so that
    an optimizer or DistributedDataParallel does not wait for their gradients. The arguments are those of `ACM`.
    """

    blocks = 4

    def __init__(self, *, in_channels: int = 3, norm: str = "GN", momentum: float = 0.9):
        super().__init__(in_channels=in_channels, norm=norm, momentum=momentum)
        self.uplayer1.requires_grad_(False)
        self.uplayer2.requires_grad_(False)
        self.deconv0 = _deconv(16, 8)
        self.fuse23 = AsymmetricFusion(32, norm, momentum)
        self.fuse12 = AsymmetricFusion(16, norm, momentum)
        self.classifier = fcn_head(8, momentum)

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        first, second, third = features
        x = self.fuse23(self.deconv2(third), second)
        x = self.deconv0(self.fuse12(self.deconv1(x), first))
        return [F.interpolate(self.classifier(x), scale_factor=2, mode="bilinear", align_corners=False)]
