"""How a network is fed: what a trained network's file says about itself, and an image made ready for it."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Recipe:
    """How a network is built and fed.

    Attributes:
        network: name in the network registry.
        options: what `build_network` takes beside the name.
        mean, std: normalisation of grey values 0..255.
        pad_multiple: the normalised image is padded with zeros at the bottom and right to multiples of this.
        pad_always: padded by at least one pixel a side, to (side // multiple + 1) * multiple.
        depth: how 16-bit files become grey values, see `read_infrared`.
        threshold: probability above which a pixel is a target's.
    """

    network: str
    options: dict = field(default_factory=dict)
    mean: float = 95.010
    std: float = 41.511
    pad_multiple: int = 32
    pad_always: bool = False
    depth: str = "range"
    threshold: float = 0.5

    @property
    def channels(self) -> int:
        """Channels of the network's input, each of them the grey image."""
        return self.options.get("in_channels", 3)


def pad_to_multiple(x: Tensor, multiple: int, *, always: bool = False) -> Tensor:
    """Pad (B, C, H, W) with zeros at the bottom and right until both sides are multiples of `multiple`.

    Args:
        always: pad at least one pixel a side, to (side // multiple + 1) * multiple, as the LESPS evaluation does.
    """
    height, width = x.shape[-2:]
    if always:
        bottom, right = multiple - height % multiple, multiple - width % multiple
    else:
        bottom, right = -height % multiple, -width % multiple
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def prepare(recipe: Recipe, grey: np.ndarray, multiple: int = 1) -> Tensor:
    """Normalise and pad one image.

    Args:
        grey: (H, W) grey values 0..255, any size.
        multiple: the network itself works on sides that are multiples of this.

    Returns:
        (1, channels, H', W') float32 on the CPU; the image is its upper left part.
    """
    x = (torch.from_numpy(np.ascontiguousarray(grey, np.float32)) - recipe.mean) / recipe.std
    x = x.expand(1, recipe.channels, -1, -1)
    return pad_to_multiple(pad_to_multiple(x, recipe.pad_multiple, always=recipe.pad_always), multiple)
