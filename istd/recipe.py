"""The recipe of a network, which describes its construction and its input, and the preparation of images for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2kit.recipe_checks import is_number, require_sound
from istd.data.polarity import POLARITIES, orient
from istd.data.sensor import RANGES, parse_range

PAD_MULTIPLE = 32  # Whole images are padded to multiples of this.
MAX_MULTIPLE = 1024  # pixels; a small image becomes at least one square of this side
MAX_OPTION = 100  # largest number among a network's options


@dataclass(frozen=True)
class Recipe:
    """The construction and the input of a network.

    Attributes:
        network: name in the network registry.
        options: further arguments of `build_network`.
        mean, std: normalization of gray values 0..255.
        pad_multiple: the normalized image is padded with zeros at the bottom and right to multiples of this.
        pad_always: each side is padded by at least one pixel, to (side // multiple + 1) * multiple.
        value_range: range of raw values, such as those of 16-bit files, see `istd.data.sensor.gray_from_raw`.
        polarity: polarity of the targets; images with dark targets are inverted, see `istd.data.polarity`.
        threshold: a pixel belongs to a target if its probability is above this threshold.
    """

    network: str
    options: dict = field(default_factory=dict)
    mean: float = 95.010
    std: float = 41.511
    pad_multiple: int = PAD_MULTIPLE
    pad_always: bool = False
    value_range: str = RANGES[0]
    polarity: str = "bright"
    threshold: float = 0.5

    @property
    def channels(self) -> int:
        """Number of input channels, each of which is the gray image."""
        return self.options.get("in_channels", 3)


def recipe_from_fields(content: Mapping[str, Any], path: object) -> Recipe:
    """Return the recipe that a file holds.

    Files of version 0.2 have `depth` in place of `value_range`: "type", or "range" for the image's own range. They are
    for bright targets.

    Args:
        content: fields of `Recipe` by name; other keys are ignored.
        path: file, for messages.

    Raises:
        ValueError: a field is missing, or the content is none of a recipe.
    """
    try:
        content = dict(content)
        if "depth" in content:
            content.setdefault("value_range", "type" if content["depth"] == "type" else RANGES[0])
        content.setdefault("polarity", "bright")
        return Recipe(**{item.name: content[item.name] for item in fields(Recipe)})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"'{path}' does not say how its network is fed ({type(error).__name__} {error}): export it with istd."
        ) from error


def _are_options(options: Any) -> bool:
    return isinstance(options, dict) and all(
        isinstance(name, str)
        and (value is None or isinstance(value, (bool, str)) or is_number(value, -MAX_OPTION, MAX_OPTION))
        for name, value in options.items()
    )


def _is_range(text: Any) -> bool:
    try:
        parse_range(text)
    except (ValueError, AttributeError):
        return False
    return True


def check_recipe(recipe: Recipe, path: object) -> Recipe:
    """Return a recipe that a file holds, if its values are sound.

    Args:
        recipe: recipe with values of any type.
        path: file, for the message.

    Raises:
        ValueError: a value has another type or lies outside its range; the sentence names every such value.
    """
    sound = {
        "network": (isinstance(recipe.network, str), "a string"),
        "options": (_are_options(recipe.options), f"strings, and numbers up to {MAX_OPTION}, by name"),
        "mean": (is_number(recipe.mean, -1e6, 1e6), "in [-1e6, 1e6]"),
        "std": (is_number(recipe.std, 1e-6, 1e6), "in [1e-6, 1e6]"),
        "pad_multiple": (is_number(recipe.pad_multiple, 1, MAX_MULTIPLE, int), f"an integer in [1, {MAX_MULTIPLE}]"),
        "pad_always": (isinstance(recipe.pad_always, bool), "true or false"),
        "value_range": (_is_range(recipe.value_range), f"{' or '.join(RANGES)} or 'LOW..HIGH'"),
        "polarity": (recipe.polarity in POLARITIES, f"one of {', '.join(POLARITIES)}"),
        "threshold": (is_number(recipe.threshold, 0, 1) and recipe.threshold < 1, "in [0, 1)"),
    }
    require_sound(recipe, sound, path)
    if not is_number(recipe.channels, 1, 3, int):
        raise ValueError(
            f"'{path}' holds a wrong description of its network: in_channels must be an integer in [1, 3], not "
            f"{recipe.channels!r:.60}."
        )
    return recipe


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
