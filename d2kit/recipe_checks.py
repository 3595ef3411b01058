"""Checks of the recipes that exported files hold, whoever wrote them."""

import os
from collections.abc import Mapping
from typing import Any


def is_number(value: Any, low: float, high: float, types: type | tuple[type, ...] = (int, float)) -> bool:
    """Whether a value is a number of these types in [low, high]; a truth value is none."""
    return isinstance(value, types) and not isinstance(value, bool) and low <= value <= high


def require_sound(recipe: object, checks: Mapping[str, tuple[bool, str]], path: str | os.PathLike) -> None:
    """Require that the values of a recipe are sound.

    Args:
        recipe: object with an attribute for each key of `checks`.
        checks: whether each value is sound, and what it must be.
        path: file that holds the recipe, for the message.

    Raises:
        ValueError: a value is not sound; the sentence names every such value.
    """
    wrong = [
        f"{name} must be {wanted}, not {getattr(recipe, name)!r:.60}"
        for name, (is_sound, wanted) in checks.items()
        if not is_sound
    ]
    if wrong:
        raise ValueError(f"'{path}' holds a wrong description of its network: {'; '.join(wrong)}.")
