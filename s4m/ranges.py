"""One clear sentence when a number of a configuration lies outside its range."""

import math


def require_range(key: str, value: float, low: float = 0.0, high: float = math.inf) -> None:
    """Raise ValueError unless a number is finite and low <= value <= high.

    Args:
        key: configuration key, for the message.
        value: NaN lies in no range.
        low, high: inclusive.
    """
    if not (low <= value <= high and math.isfinite(value)):
        wanted = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{key} must be {wanted}, not {value}.")


def require_positive(key: str, value: float) -> None:
    """Raise ValueError unless a number is finite and above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{key} must be positive, not {value}.")
