"""The recipe of an exported network, which describes its classes and how it is fed."""

import json
import os
from dataclasses import asdict, dataclass

from d2kit.recipe_checks import is_number, require_sound
from s4m.data.images import RANGES

METADATA = "s4m"  # key of an ONNX file's metadata
MAX_SIDE = 16384  # pixels; a network is fed no longer image


@dataclass(frozen=True)
class Recipe:
    """The classes and the input of a network.

    Attributes:
        class_names: name of each class.
        format: order of the channels that the network is fed: "BGR" or "RGB".
        min_size: the shorter side of an image is resized to so many pixels; 0 resizes nothing.
        max_size: longest side after this, in pixels.
        value_range: how files of more than 8 bits become 8, as INPUT.RANGE; see `s4m.data.images.to_eight_bits`.
        score_threshold: the network answers no instance below this score.
        mask_threshold: a pixel belongs to an instance if its probability is at least this.
        pixel_mean, pixel_std: the network's own normalization of each channel, in the order of `format`.
    """

    class_names: list[str]
    format: str
    min_size: int
    max_size: int
    value_range: str
    score_threshold: float
    mask_threshold: float
    pixel_mean: list[float]
    pixel_std: list[float]


def write_metadata(recipe: Recipe) -> str:
    """Return the recipe as json."""
    return json.dumps(asdict(recipe))


def read_metadata(text: str | None, path: str | os.PathLike) -> Recipe:
    """Invert `write_metadata`.

    Args:
        text: json, or None where the file has no metadata of this package.
        path: file, for messages.

    Raises:
        ValueError: the text is no such json, or values in it have another type or lie outside their range.
    """
    try:
        recipe = Recipe(**json.loads(text or ""))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"'{path}' does not say how its network is fed (no metadata '{METADATA}'): export it with s4m export."
        ) from error
    names = recipe.class_names
    sound = {
        "class_names": (isinstance(names, list) and names and all(isinstance(name, str) for name in names), "names"),
        "format": (recipe.format in ("BGR", "RGB"), "BGR or RGB"),
        "min_size": (is_number(recipe.min_size, 0, MAX_SIDE, int), f"an integer in [0, {MAX_SIDE}]"),
        "max_size": (is_number(recipe.max_size, 1, MAX_SIDE, int), f"an integer in [1, {MAX_SIDE}]"),
        "value_range": (recipe.value_range in RANGES, f"one of {', '.join(RANGES)}"),
        "score_threshold": (is_number(recipe.score_threshold, 0, 1), "in [0, 1]"),
        "mask_threshold": (is_number(recipe.mask_threshold, 0, 1), "in [0, 1]"),
    }
    require_sound(recipe, sound, path)
    return recipe
