"""Base class of the ISTD networks: an encoder and a head for any image size."""

import contextlib
from collections.abc import Iterator

from fvcore.common.registry import Registry
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from istd.recipe import pad_to_multiple

NETWORK_REGISTRY = Registry("ISTD_NETWORK")
NETWORK_REGISTRY.__doc__ = "ISTD networks: subclasses of `Network`, called with in_channels and their own options."


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalize by its mode inside the block without recording statistics.

    In training mode the batch's own statistics normalize, while running means, variances and counters do not change.
    A step that runs the same layers twice (on SCAM's modulated features and on the plain ones) wraps the pass whose
    statistics do not belong to the deployed network, so that each layer records once.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class Network(nn.Module):
    """Base of the ISTD networks.

    Subclasses set the class attributes and define `stages`, `decode` and `output_layer`.

    Attributes:
        stage_channels: channels of each stage feature, finest first; SCAM modulates these features.
        strides: side of a feature cell of each stage in input pixels.
        multiple: the encoder works on sides that are multiples of this.
        modulation_scale: SCAM's scale s for this network.
    """

    stage_channels: tuple[int, ...]
    strides: tuple[int, ...]
    multiple: int
    modulation_scale: float

    def stages(self, x: Tensor) -> list[Tensor]:
        """Compute the stage features, finest first, of an image whose sides are multiples of `multiple`."""
        raise NotImplementedError

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        """Compute the logit maps, finest first; the finest one has the size of the padded image.

        A network with deep supervision may return only the finest map in eval mode.
        """
        raise NotImplementedError

    def output_layer(self) -> nn.Conv2d:
        """Return the convolution that gives the finest logits."""
        raise NotImplementedError

    def side_layers(self) -> list[nn.Conv2d]:
        """Return the convolutions that give the other maps."""
        return []

    def merge(self) -> "Network":
        """Return an equivalent network without the parts that only training needs, or the network itself."""
        return self

    def encoder(self, x: Tensor) -> list[Tensor]:
        """Compute the stage features, finest first.

        Args:
            x: (B, in_channels, H, W) normalized image of any size; it is padded with zeros at the bottom and right to
                multiples of `multiple`.

        Returns:
            (B, stage_channels[l], H'/strides[l], W'/strides[l]) of each stage l, where H' and W' are the padded sides.
        """
        return self.stages(pad_to_multiple(x, self.multiple))

    def head(self, features: list[Tensor], size: tuple[int, int] | None = None) -> list[Tensor]:
        """Compute the logit maps, finest first.

        Example: a network with multiple = 16 pads a 50x70 image to 64x80. A map of stride 4 then has 16x20 cells, of
        which the first ceil(50 / 4) x ceil(70 / 4) = 13x18 cells show the image and are kept.

        Args:
            features: stage features from `encoder`, modulated or not.
            size: (H, W) of the image before padding, to which maps are cropped. Without it the maps cover the padded
                image, whose size follows from the features and strides.

        Returns:
            a list of (B, 1, h, w) logits; the first has the image's size.
        """
        maps = self.decode(features)
        if size is None:
            return maps
        full = features[0].shape[-2] * self.strides[0]
        return [_crop(logits, size, full // logits.shape[-2]) for logits in maps]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the finest logits: (B, in_channels, H, W) -> (B, 1, H, W)."""
        return self.head(self.encoder(x), tuple(x.shape[-2:]))[0]


def _crop(logits: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    height, width = (-(-side // stride) for side in size)
    return logits[..., :height, :width]


def build_network(name: str, in_channels: int = 3, *, output_bias: float | None = None, **options) -> Network:
    """Build a registered network with fresh weights.

    Args:
        name: a name in `NETWORK_REGISTRY`, for example MLCLNet.
        in_channels: channels of the image; 3 (repeated gray values) or 1.
        output_bias: initial bias of the convolutions that give logits, such as -4 for rare targets; None: the default.
        options: options of that network, for example norm="BN" for ACM and ALCNet.

    Raises:
        ValueError: no network has that name.
    """
    if name not in NETWORK_REGISTRY:
        known = ", ".join(sorted(known for known, _ in NETWORK_REGISTRY))
        raise ValueError(f"no ISTD network is named '{name}': choose one of {known}.")
    network = NETWORK_REGISTRY.get(name)(in_channels=in_channels, **options)
    if output_bias is not None:
        for layer in (network.output_layer(), *network.side_layers()):
            nn.init.constant_(layer.bias, output_bias)
    return network
