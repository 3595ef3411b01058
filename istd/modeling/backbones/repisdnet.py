"""RepISDNet: a small U-Net whose multi-branch convolutions merge exactly into plain ones after training."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.modeling.backbones.blocks import conv_norm_relu, resize, same_conv
from istd.modeling.backbones.network import NETWORK_REGISTRY, Network

BINS = (1, 2, 3, 6)  # bins per side of the pyramid pooling
_bare_conv = partial(conv_norm_relu, bias=False)


def fold_norm(weight: Tensor, bias: Tensor | float, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that equals (weight, bias) followed by `norm` in eval mode.

    The new bias is beta + (bias - mean) * gamma / std; the published merge omits `bias`.
    """
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * scale[:, None, None, None], norm.bias + (bias - norm.running_mean) * scale


class EdgeCompensation(nn.Module):
    """E(a, b) in training form; (B, a, H, W) -> (B, b, H, W).

    A ReLU takes the sum of a conv3, a central-difference conv3 (a conv3 minus a conv1 of its kernels' sums), a conv1,
    and the input if a is b. Each summand has its own BatchNorm.

    All summands are linear in eval mode, so `merge` can add them as 3x3 kernels. Without norms, for a = b = 1:
        conv3 and difference   kernels K, and D with its sum subtracted from the center
        conv1 and input        kernels of zeros with the weight w, and with 1, in the center
        merged                 K + D, with w + 1 - sum of D added in the center
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.plain = same_conv(inputs, outputs, 3, bias=False)
        self.difference = same_conv(inputs, outputs, 3, bias=False)
        self.point = same_conv(inputs, outputs, 1)
        self.plain_norm, self.difference_norm, self.point_norm = (nn.BatchNorm2d(outputs) for _ in range(3))
        self.identity_norm = nn.BatchNorm2d(outputs) if inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        central = F.conv2d(x, difference_kernel(self.difference.weight), padding=1)
        y = self.plain_norm(self.plain(x)) + self.difference_norm(central) + self.point_norm(self.point(x))
        return torch.relu(y if self.identity_norm is None else y + self.identity_norm(x))

    @torch.no_grad()
    def merge(self) -> nn.Sequential:
        """Return the conv3 with bias and the ReLU that equal this block in eval mode."""
        point = F.pad(self.point.weight, (1, 1, 1, 1))
        branches = [
            fold_norm(self.plain.weight, 0.0, self.plain_norm),
            fold_norm(difference_kernel(self.difference.weight), 0.0, self.difference_norm),
            fold_norm(point, self.point.bias, self.point_norm),
        ]
        if self.identity_norm is not None:
            kernel = nn.init.dirac_(torch.empty_like(self.plain.weight))
            branches.append(fold_norm(kernel, 0.0, self.identity_norm))
        merged = merged_conv(self.plain.in_channels, self.plain.out_channels).to(self.plain.weight)
        merged[0].weight.copy_(sum(weight for weight, _ in branches))
        merged[0].bias.copy_(sum(bias for _, bias in branches))
        return merged


def difference_kernel(weight: Tensor) -> Tensor:
    """Subtract each (3, 3) kernel's sum from its center, so that the kernel gives 0 on a constant image."""
    return weight - F.pad(weight.sum((2, 3), keepdim=True), (1, 1, 1, 1))


def merged_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Build E(a, b) in merged form: a conv3 with bias and a ReLU."""
    return nn.Sequential(same_conv(inputs, outputs, 3), nn.ReLU(inplace=True))


def average_bins(x: Tensor, bins: int) -> Tensor:
    """Compute adaptive average pooling, (B, C, H, W) -> (B, C, bins, bins), by two matrix products.

    Unlike the pooling operator, the products can be exported with sides that are known only at run time.
    """
    rows, columns = (_bin_weights(side, bins, x) for side in x.shape[-2:])
    return rows @ x @ columns.T


def _bin_weights(side: int, bins: int, like: Tensor) -> Tensor:
    """Return (bins, side) weights; row i averages cells floor(i side / bins) .. ceil((i + 1) side / bins) - 1."""
    index = torch.arange(bins, device=like.device)[:, None]
    cell = torch.arange(side, device=like.device)
    first = index * side // bins
    end = ((index + 1) * side + bins - 1) // bins
    inside = ((cell >= first) & (cell < end)).to(like.dtype)
    return inside / (end - first).to(like.dtype)


class PyramidPooling(nn.Module):
    """The input, joined with its averages over 1, 2, 3 and 6 bins per side; (B, c, H, W) -> (B, 2c, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*_bare_conv(channels, channels // len(BINS), 1)) for _ in BINS)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [branch(average_bins(x, bins)) for bins, branch in zip(BINS, self.branches, strict=True)]
        enlarged = [F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=True) for y in pooled]
        return torch.cat([x, *enlarged], dim=1)


@NETWORK_REGISTRY.register()
class RepISDNet(Network):
    """RepISDNet with one logit: 558,497 parameters in training form, 279,073 merged, for three input channels.

    The published network has two outputs and 33 more parameters.

    Args:
        in_channels: channels of the image.
        merged: build the merged form for deployment, which `merge` fills; its blocks have no BatchNorm.
    """

    stage_channels = (32, 64, 64)
    strides = (1, 2, 4)
    multiple = 4
    modulation_scale = 0.3  # not published; best of 0.05, 0.12, 0.3, 0.6 on synthetic validation scenes

    def __init__(self, *, in_channels: int = 3, merged: bool = False):
        super().__init__()
        self.in_channels = in_channels
        block = merged_conv if merged else EdgeCompensation
        self.inc = nn.Sequential(*_bare_conv(in_channels, 32, 3), *_bare_conv(32, 32, 3))
        self.down1 = nn.Sequential(nn.MaxPool2d(2), block(32, 64), block(64, 64))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), block(64, 64), block(64, 64))
        self.up3 = nn.Sequential(block(128, 64), block(64, 32))
        self.up4 = nn.Sequential(block(64, 32), block(32, 32))
        self.pyramid = PyramidPooling(32)
        self.classifier = nn.Sequential(*_bare_conv(64, 32, 3), nn.Dropout2d(0.1), same_conv(32, 1, 1))

    def stages(self, x: Tensor) -> list[Tensor]:
        first = self.inc(x)
        second = self.down1(first)
        return [first, second, self.down2(second)]

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        first, second, third = features
        x = self.up3(torch.cat([second, resize(2)(third)], dim=1))
        x = self.up4(torch.cat([first, resize(2)(x)], dim=1))
        return [self.classifier(self.pyramid(x))]

    def output_layer(self) -> nn.Conv2d:
        return self.classifier[-1]

    def merge(self) -> "RepISDNet":
        """Return the same function in plain convolutions, with copied weights."""
        network = RepISDNet(in_channels=self.in_channels, merged=True).to(self.output_layer().weight)
        state = {}
        for name, module in self.named_modules():
            if isinstance(module, EdgeCompensation):
                state |= {f"{name}.{key}": value for key, value in module.merge().state_dict().items()}
        unmerged = network.state_dict().keys() - state.keys()
        state |= {key: value for key, value in self.state_dict().items() if key in unmerged}
        network.load_state_dict(state)
        return network.train(self.training)
