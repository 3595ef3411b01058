"""Bright and dark targets: a network learns and finds bright ones, and gray values are inverted for dark ones."""

import numpy as np

POLARITIES = ("bright", "dark", "both")


def check_polarity(polarity: str) -> str:
    """Return the value of ISTD.INPUT.POLARITY; ValueError if it is none of POLARITIES."""
    if polarity not in POLARITIES:
        raise ValueError(f"ISTD.INPUT.POLARITY must be one of {', '.join(POLARITIES)}, not '{polarity}'.")
    return polarity


def orient(gray: np.ndarray, polarity: str) -> np.ndarray:
    """Return (H, W) gray values 0..255 in which targets of the polarity "dark" are bright; others stay as they are."""
    return 255 - gray if polarity == "dark" else gray
