"""MSHNet: a U-Net of CBAM residual blocks with a mask at every scale and a fused mask."""

import torch
from torch import Tensor, nn

from istd.modeling.backbones.attention import attention_stage
from istd.modeling.backbones.blocks import pooled_stages, resize, same_conv
from istd.modeling.backbones.network import NETWORK_REGISTRY, Network


@NETWORK_REGISTRY.register()
class MSHNet(Network):
    """MSHNet with 4,065,513 parameters for three input channels.

    The head returns the fused map, then the decoder's maps at strides 1, 2, 4 and 8.
    """

    stage_channels = (16, 32, 64, 128, 256)
    strides = (1, 2, 4, 8, 16)
    multiple = 16
    modulation_scale = 0.12  # not published; best of 0.05, 0.12, 0.3, 0.6 on synthetic validation scenes

    def __init__(self, *, in_channels: int = 3):
        super().__init__()
        widths = self.stage_channels
        self.conv_init = same_conv(in_channels, widths[0], 1)
        self.stage = nn.ModuleList(
            attention_stage(before, width, 1 if level == 0 else 2)
            for level, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        pairs = list(zip(widths, widths[1:], strict=False))
        self.decoder = nn.ModuleList(
            attention_stage(width + deeper, width, 1 if level == 0 else 2)
            for level, (width, deeper) in enumerate(pairs)
        )
        self.outputs = nn.ModuleList(same_conv(width, 1, 1) for width, _ in pairs)
        self.final = same_conv(len(pairs), 1, 3)

    def stages(self, x: Tensor) -> list[Tensor]:
        return pooled_stages(self.stage, self.conv_init(x))

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        *skips, deep = features
        masks = []
        for skip, decoder, output in zip(skips[::-1], self.decoder[::-1], self.outputs[::-1], strict=True):
            deep = decoder(torch.cat([skip, resize(2)(deep)], dim=1))
            masks.insert(0, output(deep))
        enlarged = [resize(2**level)(mask) for level, mask in enumerate(masks[1:], start=1)]
        return [self.final(torch.cat([masks[0], *enlarged], dim=1)), *masks]

    def output_layer(self) -> nn.Conv2d:
        return self.final

    def side_layers(self) -> list[nn.Conv2d]:
        return list(self.outputs)
