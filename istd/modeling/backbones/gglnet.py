"""GGLNet: ALCLNet with squeeze-and-excitation, a gradient image in every stage, and fusions that weight both maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.modeling.backbones.alclnet import ALCLNet
from istd.modeling.backbones.attention import ChannelAttention, SpatialAttention, squeezed_convs
from istd.modeling.backbones.blocks import DownResidual, Residual, conv_norm_relu, resize, two_convs
from istd.modeling.backbones.network import NETWORK_REGISTRY


@torch.no_grad()
def gradient_image(x: Tensor) -> Tensor:
    """Compute the length of each channel's image gradient: (B, C, H, W) -> (B, C, H, W).

    Central differences with zero padding give the gradient. It does not propagate back to the image, because the root
    has an infinite slope where the image is flat.
    """
    padded = F.pad(x, (1, 1, 1, 1))
    horizontal = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    vertical = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return torch.sqrt(horizontal.square() + vertical.square())


class GradientSupplement(nn.Module):
    """G(c): features of the gradient image are joined to those of the stage, as a residual.

    Args:
        image_channels, channels: channels of the gradient image, and channels c of the stage.
    """

    def __init__(self, image_channels: int, channels: int):
        super().__init__()
        self.gradient = nn.Sequential(*squeezed_convs(image_channels, channels), nn.ReLU(inplace=True))
        self.join = squeezed_convs(2 * channels, channels)

    def forward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Join (B, c, H, W) and (B, image_channels, H, W) to (B, c, H, W)."""
        return torch.relu(x + self.join(torch.cat([x, self.gradient(gradient)], dim=1)))


class GradientStages(nn.Module):
    """Encoder of GGLNet, which has a block of ALCLNet, two SE blocks and a gradient supplement in each stage.

    Args:
        in_channels: channels of the image.
        channels: width of each stage; stage l has stride 2**l.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...]):
        super().__init__()
        first = channels[0]
        self.layer1 = nn.Sequential(*conv_norm_relu(in_channels, first, 3), *conv_norm_relu(first, first, 3))
        self.blocks = nn.ModuleList()
        self.supplements = nn.ModuleList()
        for before, width in zip((0, *channels), channels, strict=False):
            first_block = DownResidual(before, width) if before else Residual(two_convs(width, width))
            squeezed = [Residual(squeezed_convs(width, width)) for _ in range(2)]
            self.blocks.append(nn.Sequential(first_block, *squeezed))
            self.supplements.append(GradientSupplement(in_channels, width))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute all outputs, finest first; the sides of (B, in_channels, H, W) are multiples of 2**(stages - 1)."""
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
    """Sbam(a, b): the enlarged deep map weights the shallow one's channels, the shallow map the deep one's cells."""

    def __init__(self, deep: int, shallow: int):
        super().__init__()
        self.hl_layer = nn.Sequential(resize(2), *conv_norm_relu(deep, shallow, 1))
        self.hl_layer_2 = ChannelAttention(shallow, 8)
        self.ll_layer = SpatialAttention(bias=True, max_first=True)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """Fuse (B, a, H/2, W/2) and (B, b, H, W) to (B, b, H, W)."""
        high = self.hl_layer(deep)
        return shallow * self.hl_layer_2(high) + high * self.ll_layer(shallow)


@NETWORK_REGISTRY.register()
class GGLNet(ALCLNet):
    """GGLNet with 8,988,093 parameters for three input channels."""

    modulation_scale = 0.05  # not published; best of 0.05, 0.12, 0.3, 0.6 on synthetic validation scenes
    encoder_class = GradientStages
    fusion_class = MutualFusion
