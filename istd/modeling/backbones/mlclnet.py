"""MLCLNet: three residual stages, multi-scale local-contrast blocks and additive top-down fusion."""

import torch
from torch import Tensor, nn

from istd.modeling.backbones.blocks import ResidualStages, kaiming_init, resize, same_conv
from istd.modeling.backbones.network import NETWORK_REGISTRY, Network


class MultiScaleContrast(nn.Module):
    """M(c): three concatenated branches of growing kernel and dilation, and a conv1 3c -> c without activation."""

    def __init__(self, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                same_conv(channels, channels, scale),
                nn.ReLU(inplace=True),
                same_conv(channels, channels, 3, dilation=scale),
                nn.ReLU(inplace=True),
            )
            for scale in (1, 3, 5)
        )
        self.merge = same_conv(3 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, c, H, W) -> (B, c, H, W)."""
        return self.merge(torch.cat([branch(x) for branch in self.branches], dim=1))


@NETWORK_REGISTRY.register()
class MLCLNet(Network):
    """MLCLNet with 657,249 parameters in its base form (three blocks per stage) for three input channels.

    Args:
        in_channels: channels of the image.
        blocks: residual blocks in each stage; 3, or 2 for the "small" form.
    """

    stage_channels = (16, 32, 64)
    strides = (1, 2, 4)
    multiple = 4
    modulation_scale = 0.55

    def __init__(self, *, in_channels: int = 3, blocks: int = 3):
        super().__init__()
        self.stage = ResidualStages(in_channels, self.stage_channels, blocks)
        self.contrasts = nn.ModuleList(MultiScaleContrast(width) for width in self.stage_channels)
        kaiming_init(self)
        # Lateral layers and classifier keep PyTorch's own initialization, as published.
        self.laterals = nn.ModuleList(
            nn.Sequential(same_conv(width, 64, 1), nn.ReLU(inplace=True)) for width in self.stage_channels
        )
        self.layer = nn.Sequential(same_conv(64, 64, 1), nn.ReLU(inplace=True), same_conv(64, 1, 1))

    def stages(self, x: Tensor) -> list[Tensor]:
        return self.stage(x)

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        shallow, middle, deep = (
            lateral(contrast(feature))
            for lateral, contrast, feature in zip(self.laterals, self.contrasts, features, strict=True)
        )
        return [self.layer(resize(2)(resize(2)(deep) + middle) + shallow)]

    def output_layer(self) -> nn.Conv2d:
        return self.layer[-1]
