"""SCTransNet: a residual U-Net whose skips pass through a transformer over channels and scales."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.modeling.backbones.blocks import conv_norm_relu, pooled_stages, resize, same_conv, shortcut
from istd.modeling.backbones.network import NETWORK_REGISTRY, Network

PATCHES = (16, 8, 4, 2)  # side in cells of one patch of each level
POSITIONS = 256  # patches of a 256x256 image, for which the published embedding has an unused parameter
_bare_conv = partial(same_conv, bias=False)


class LeakyResidual(nn.Module):
    """Q(a, b): a LeakyReLU of (conv3, BN, LeakyReLU, conv3, BN) + the input, with a conv1 and BN if a is not b."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layer = nn.Sequential(
            same_conv(inputs, outputs, 3),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(inplace=True),
            same_conv(outputs, outputs, 3),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = shortcut(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, a, H, W) -> (B, b, H, W)."""
        return F.leaky_relu(self.layer(x) + self.shortcut(x))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each cell of (B, c, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchEmbedding(nn.Module):
    """A convolution that turns patches of one level to cells; (B, c, H, W) -> (B, c, H / patch, W / patch).

    As published, the module has a parameter of positions that the forward pass does not use; it is frozen.
    """

    def __init__(self, channels: int, patch: int):
        super().__init__()
        self.embed = nn.Conv2d(channels, channels, patch, stride=patch)
        self.positions = nn.Parameter(torch.zeros(1, POSITIONS, channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x)


class CrossAttention(nn.Module):
    """Residual attention in which each level's channels attend to all levels' channels by their similarity over cells.

    As published, the module has sixteen scalars that the forward pass does not use; they are frozen.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        total = sum(channels)
        self.norms = nn.ModuleList(ChannelNorm(width) for width in channels)
        self.norm = ChannelNorm(total)
        self.queries = nn.ModuleList(
            nn.Sequential(_bare_conv(width, width, 1), _bare_conv(width, width, 3, groups=width // 2))
            for width in channels
        )
        self.key, self.value = (
            nn.Sequential(_bare_conv(total, total, 1), _bare_conv(total, total, 3, groups=total)) for _ in range(2)
        )
        self.map_norm = nn.InstanceNorm2d(1)
        self.outputs = nn.ModuleList(_bare_conv(width, width, 1) for width in channels)
        self.unused = nn.ParameterList(nn.Parameter(torch.tensor(0.2), requires_grad=False) for _ in range(16))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Compute (B, c, h, w) of each level -> the same shapes; h and w are equal in all levels."""
        joint = self.norm(torch.cat(levels, dim=1))
        key = F.normalize(self.key(joint).flatten(2), dim=-1)
        value = self.value(joint).flatten(2)
        results = []
        for x, norm, query, output in zip(levels, self.norms, self.queries, self.outputs, strict=True):
            similarity = F.normalize(query(norm(x)).flatten(2), dim=-1) @ key.transpose(1, 2) / math.sqrt(key.shape[1])
            attention = self.map_norm(similarity[:, None])[:, 0].softmax(dim=-1)
            results.append(x + output((attention @ value).view_as(x)))
        return results


class FeedForward(nn.Module):
    """Residual depthwise convolutions of two sizes between two conv1, with channel gates from neighboring channels."""

    def __init__(self, channels: int):
        super().__init__()
        inner = int(2.66 * channels)
        self.norm = ChannelNorm(channels)
        self.first = _bare_conv(channels, 2 * inner, 1)
        self.depthwise = nn.ModuleList(_bare_conv(inner, inner, kernel, groups=inner) for kernel in (3, 5))
        self.last = _bare_conv(2 * inner, channels, 1)
        self.neighbours = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, c, h, w) -> (B, c, h, w)."""
        halves = self.first(self.norm(x)).chunk(2, dim=1)
        y = torch.cat([conv(half).relu() for conv, half in zip(self.depthwise, halves, strict=True)], dim=1)
        y = self.last(y)
        gate = self.neighbours(y.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]
        return x + y * gate


class ChannelTransformer(nn.Module):
    """Four layers of cross attention and feed-forward over the patches of four levels, enlarged back to their sizes."""

    def __init__(self, channels: tuple[int, ...], depth: int = 4):
        super().__init__()
        self.embeddings = nn.ModuleList(PatchEmbedding(*pair) for pair in zip(channels, PATCHES, strict=True))
        self.attentions = nn.ModuleList(CrossAttention(channels) for _ in range(depth))
        self.feeds = nn.ModuleList(nn.ModuleList(FeedForward(c) for c in channels) for _ in range(depth))
        self.norms = nn.ModuleList(ChannelNorm(width) for width in channels)
        self.rebuild = nn.ModuleList(nn.Sequential(*conv_norm_relu(width, width, 1)) for width in channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Compute (B, c, H / 2**l, W / 2**l) of each level l -> the same; each result adds twice its feature."""
        levels = [embed(x) for embed, x in zip(self.embeddings, features, strict=True)]
        for attention, feeds in zip(self.attentions, self.feeds, strict=True):
            levels = [feed(x) for feed, x in zip(feeds, attention(levels), strict=True)]
        skips = []
        for x, norm, rebuild, feature, patch in zip(levels, self.norms, self.rebuild, features, PATCHES, strict=True):
            enlarged = F.interpolate(norm(x), scale_factor=patch, mode="bilinear", align_corners=False)
            skips.append(rebuild(enlarged) + 2 * feature)
        return skips


class GatedUp(nn.Module):
    """U(in, out): the enlarged deep map gates the channels of the skip and is joined with it.

    Args:
        inputs: channels of both maps together.
        outputs: channels of the result.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        width = inputs // 2
        self.of_skip = nn.Linear(width, width)
        self.of_deep = nn.Linear(width, width)
        self.convs = nn.Sequential(*conv_norm_relu(inputs, outputs, 3), *conv_norm_relu(outputs, outputs, 3))

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Fuse (B, in / 2, H/2, W/2) and (B, in / 2, H, W) to (B, out, H, W)."""
        deep = F.interpolate(deep, scale_factor=2, mode="nearest")
        gate = torch.sigmoid((self.of_skip(skip.mean((2, 3))) + self.of_deep(deep.mean((2, 3)))) / 2)
        skip = torch.relu(skip * gate[..., None, None])
        return self.convs(torch.cat([skip, deep], dim=1))


@NETWORK_REGISTRY.register()
class SCTransNet(Network):
    """SCTransNet with 11,326,579 parameters for three input channels, of which 122,944 are unused.

    In training the head returns the output, the map joined from all scales, and the maps of strides 2, 4, 8 and 16, all
    at full size. In eval mode it returns the output only.
    """

    stage_channels = (32, 64, 128, 256, 256)
    strides = (1, 2, 4, 8, 16)
    multiple = 16
    modulation_scale = 0.6  # not published; best of 0.05, 0.12, 0.3, 0.6 on synthetic validation scenes

    def __init__(self, *, in_channels: int = 3):
        super().__init__()
        widths = self.stage_channels
        self.stage = nn.ModuleList(
            LeakyResidual(before, width) for before, width in zip((in_channels, *widths), widths, strict=False)
        )
        self.transformer = ChannelTransformer(widths[:-1])
        decoded = (128, 64, 32, 32)
        self.decoder = nn.ModuleList(
            GatedUp(2 * width, output) for width, output in zip(widths[-2::-1], decoded, strict=True)
        )
        self.output = same_conv(decoded[-1], 1, 1)
        self.sides = nn.ModuleList(same_conv(width, 1, 1) for width in (widths[-1], *decoded[:-1]))
        self.join = same_conv(len(self.sides) + 1, 1, 1)

    def stages(self, x: Tensor) -> list[Tensor]:
        return pooled_stages(self.stage, x)

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        *levels, deep = features
        maps = [deep]
        for decoder, skip in zip(self.decoder, self.transformer(levels)[::-1], strict=True):
            maps.append(decoder(maps[-1], skip))
        output = self.output(maps[-1])
        if not self.training:
            return [output]
        sides = [resize(patch)(side(x)) for side, x, patch in zip(self.sides, maps[:-1], PATCHES, strict=True)][::-1]
        return [output, self.join(torch.cat([*sides, output], dim=1)), *sides]

    def output_layer(self) -> nn.Conv2d:
        return self.output

    def side_layers(self) -> list[nn.Conv2d]:
        return [self.join, *self.sides]
