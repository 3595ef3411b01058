"""The recipe of a network, which describes its construction and its input, and the preparation of images for it."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from istd.data.polarity import orient

PAD_MULTIPLE = 32  # Whole images are padded to multiples of this.


@dataclass(frozen=True)
class Recipe:
    """The construction and the input of a network.

    Attributes:
        network: name in the network registry.
        options: further arguments of `build_network`.
        mean, std: normalization of gray values 0..255.
        pad_multiple: the normalized image is padded with zeros at the bottom and right to multiples of this.
        pad_always: each side is padded by at least one pixel, to (side // multiple + 1) * multiple.
        depth: scaling of 16-bit files, see `read_infrared`.
        polarity: polarity of the targets; images with dark targets are inverted, see `istd.data.polarity`.
        threshold: a pixel belongs to a target if its probability is above this threshold.
    """

    network: str
    options: dict = field(default_factory=dict)
    mean: float = 95.010
    std: float = 41.511
    pad_multiple: int = PAD_MULTIPLE
    pad_always: bool = False
    depth: str = "range"
    polarity: str = "bright"
    threshold: float = 0.5

    @property
    def channels(self) -> int:
        """Number of input channels, each of which is the gray image."""
        return self.options.get("in_channels", 3)


def pad_to_multiple(x: Tensor, multiple: int, *, always: bool = False) -> Tensor:
    """Pad (B, C, H, W) with zeros at the bottom and right until both sides are multiples of `multiple`.

    Args:
        always: pad each side by at least one pixel, to (side // multiple + 1) * multiple, as LESPS does in evaluation.
    """
    height, width = x.shape[-2:]
    if always:
        bottom, right = multiple - height % multiple, multiple - width % multiple
    else:
        bottom, right = -height % multiple, -width % multiple
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def prepare(recipe: Recipe, gray: np.ndarray, multiple: int = 1) -> Tensor:
    """Normalize and pad one image, after dark targets became bright ones.

    Args:
        recipe: recipe of the network.
        gray: (H, W) gray values 0..255 of any size.
        multiple: the padded sides are also multiples of this, as the network itself needs.

    Returns:
        (1, channels, H', W') float32 on the CPU, with the image in the upper left part.
    """
    gray = orient(np.ascontiguousarray(gray, np.float32), recipe.polarity)
    x = (torch.from_numpy(gray) - recipe.mean) / recipe.std
    x = x.expand(1, recipe.channels, -1, -1)
    return pad_to_multiple(pad_to_multiple(x, recipe.pad_multiple, always=recipe.pad_always), multiple)
