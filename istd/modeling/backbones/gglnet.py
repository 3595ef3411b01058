"""GGLNet: ALCLNet with squeeze-and-excitation, a gradient image in every stage, and fusions that weigh both ways."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.modeling.backbones.alclnet import ALCLNet
from istd.modeling.backbones.attention import ChannelAttention, SpatialAttention, SqueezeResidual, squeezed_convs
from istd.modeling.backbones.blocks import DownResidual, PlainResidual, conv_norm_relu, up2
from istd.modeling.backbones.network import NETWORK_REGISTRY


@torch.no_grad()
def gradient_image(x: Tensor) -> Tensor:
    """Length of the gradient of each channel by central differences with zeros around: (B, C, H, W) twice.

    It carries no gradient back to the image: the root has an infinite slope where the image is flat.
    """
    padded = F.pad(x, (1, 1, 1, 1))
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return torch.sqrt(across.square() + down.square())


class GradientSupplement(nn.Module):
    """G(c): features of the gradient image join those of the stage, as a residual.

    Args:
        image_channels: of the gradient image.
        channels: c.
    """

    def __init__(self, image_channels: int, channels: int):
        super().__init__()
        self.gradient = nn.Sequential(*squeezed_convs(image_channels, channels), nn.ReLU(inplace=True))
        self.join = squeezed_convs(2 * channels, channels)

    def forward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """(B, c, H, W) and (B, image_channels, H, W) -> (B, c, H, W)."""
        return torch.relu(x + self.join(torch.cat([x, self.gradient(gradient)], dim=1)))


class GradientStages(nn.Module):
    """Encoder of GGLNet: in each stage one block as in ALCLNet, two SE blocks and a gradient supplement.

    Args:
        in_channels: channels of the image.
        channels: width of each stage; stage l has stride 2**l.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...]):
        super().__init__()
        first = channels[0]
        self.layer1 = nn.Sequential(*conv_norm_relu(in_channels, first, 3), *conv_norm_relu(first, first, 3))
        self.blocks, self.supplements = nn.ModuleList(), nn.ModuleList()
        for before, width in zip((0, *channels), channels, strict=False):
            change = DownResidual(before, width) if before else PlainResidual(width)
            self.blocks.append(nn.Sequential(change, SqueezeResidual(width), SqueezeResidual(width)))
            self.supplements.append(GradientSupplement(in_channels, width))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W), sides multiples of 2**(stages-1) -> the output of each stage, finest first."""
        gradient = gradient_image(x)
        x = self.layer1(x)
        features = []
        for blocks, supplement in zip(self.blocks, self.supplements, strict=True):
            if features:
                gradient = F.max_pool2d(gradient, 2)
            x = supplement(blocks(x), gradient)
            features.append(x)
        return features


class MutualFusion(nn.Module):
    """Sbam(a, b) of GGLNet: the enlarged deep map weighs the shallow one by channel, and is weighed by it by cell."""

    def __init__(self, deep: int, shallow: int):
        super().__init__()
        self.hl_layer = nn.Sequential(up2(), *conv_norm_relu(deep, shallow, 1))
        self.hl_layer_2 = ChannelAttention(shallow, 8)
        self.ll_layer = SpatialAttention(bias=True, max_first=True)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """(B, a, H/2, W/2) and (B, b, H, W) -> (B, b, H, W)."""
        high = self.hl_layer(deep)
        return shallow * self.hl_layer_2(high) + high * self.ll_layer(shallow)


@NETWORK_REGISTRY.register()
class GGLNet(ALCLNet):
    """GGLNet, 8,988,093 parameters with three input channels."""

    modulation_scale = 0.05  # not published; best of 0.05, 0.12, 0.3, 0.6 on synthetic validation scenes
    encoder_class = GradientStages
    fusion_class = MutualFusion
