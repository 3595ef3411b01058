"""ALCLNet: five residual stages, local-contrast layers and four gated top-down fusions."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from istd.modeling.backbones.blocks import ResidualStages, conv_norm_relu, kaiming_init, resize, same_conv
from istd.modeling.backbones.network import NETWORK_REGISTRY, Network


def local_contrast(channels: int) -> nn.Sequential:
    """Build LCL(c): conv1, ReLU, conv3 and ReLU; (B, c, H, W) -> (B, c, H, W)."""
    layer = nn.Sequential(
        same_conv(channels, channels, 1), nn.ReLU(inplace=True), same_conv(channels, channels, 3), nn.ReLU(inplace=True)
    )
    return nn.Sequential(OrderedDict(layer1=layer))


class GatedFusion(nn.Module):
    """Sbam(a, b): the enlarged deep map is added to the shallow map through gates that the shallow map gives."""

    def __init__(self, deep: int, shallow: int):
        super().__init__()
        self.hl_layer = nn.Sequential(resize(2), *conv_norm_relu(deep, shallow, 1))
        self.ll_layer = nn.Sequential(same_conv(shallow, shallow, 1), nn.BatchNorm2d(shallow))

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """Fuse (B, a, H/2, W/2) and (B, b, H, W) to (B, b, H, W)."""
        return shallow + self.hl_layer(deep) * torch.sigmoid(self.ll_layer(shallow))


@NETWORK_REGISTRY.register()
class ALCLNet(Network):
    """ALCLNet with 5,668,145 parameters for three input channels.

    Attributes:
        encoder_class: class of the encoder, called with (in_channels, stage_channels).
        fusion_class: class of a fusion, called with the widths of the deeper and the shallower stage.
    """

    stage_channels = (16, 32, 64, 128, 256)
    strides = (1, 2, 4, 8, 16)
    multiple = 16
    modulation_scale = 0.12
    encoder_class = ResidualStages
    fusion_class = GatedFusion

    def __init__(self, *, in_channels: int = 3):
        super().__init__()
        self.stage = self.encoder_class(in_channels, self.stage_channels)
        widths = self.stage_channels[::-1]
        for index, width in enumerate(widths, start=1):
            self.add_module(f"lcl{index}", local_contrast(width))
        for index, (deep, shallow) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            self.add_module(f"sbam{index}", self.fusion_class(deep, shallow))
        self.layer = nn.Sequential(same_conv(16, 16, 1), nn.ReLU(inplace=True), same_conv(16, 1, 1))
        kaiming_init(self)

    def stages(self, x: Tensor) -> list[Tensor]:
        return self.stage(x)

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        deep, *shallower = (self.get_submodule(f"lcl{i}")(f) for i, f in enumerate(features[::-1], start=1))
        for index, shallow in enumerate(shallower, start=1):
            deep = self.get_submodule(f"sbam{index}")(deep, shallow)
        return [self.layer(deep)]

    def output_layer(self) -> nn.Conv2d:
        return self.layer[-1]
