"""Doubts about labels, 0 to 1, are measured and put together."""

from collections.abc import Sequence

import numpy as np

LEAST_TOLD = 0.25  # A smaller doubt is no reason that is shown.
_LEAST_LABELS = 8  # of a class, from which its usual size is known
_USUAL = 2.0  # robust standard deviations of the logarithm of areas that are usual
_STRANGE = 6.0  # robust standard deviations at which a size is as strange as it gets


def strange_sizes(areas: Sequence[float]) -> np.ndarray:
    """Return for each area, in pixels, how far it lies from the usual ones: 0 to 1; 0 if there are few areas.

    The distance is that of the logarithm from its median, by the spread.
    """
    if len(areas) < _LEAST_LABELS:
        return np.zeros(len(areas))
    logarithms = np.log(np.maximum(areas, 1))
    distances = np.abs(logarithms - np.median(logarithms))
    spread = max(1.4826 * np.median(distances), 0.1)  # The factor makes it the standard deviation of a Gaussian.
    return np.clip((distances / spread - _USUAL) / (_STRANGE - _USUAL), 0, 1)


def total(doubts: np.ndarray) -> np.ndarray:
    """Return the doubts (N, D) of each of N labels together: 1 where one of them is 1, 0 where all are 0."""
    return 1 - np.prod(1 - doubts, axis=1)


def told(doubts: Sequence[float], reasons: Sequence[str], least: float = LEAST_TOLD) -> tuple[str, ...]:
    """Return the reasons (D,) whose doubts (D,) about one label are `least` or more, the weightiest first."""
    order = np.argsort(-np.asarray(doubts), kind="stable")
    return tuple(reasons[column] for column in order if doubts[column] >= least)
