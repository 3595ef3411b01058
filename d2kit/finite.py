"""Checks for NaN and infinity in losses and weights."""

from collections.abc import Callable, Iterable, Mapping

import torch


def non_finite(values: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the floating-point tensors that hold NaN or infinity."""
    return [name for name, value in values.items() if value.is_floating_point() and not value.isfinite().all()]


def require_finite_losses(losses: Mapping[str, torch.Tensor], images: Callable[[], Iterable[str]]) -> None:
    """Raise FloatingPointError unless the sum of the losses is finite; the check synchronizes the device once.

    Args:
        losses: scalars by name.
        images: a function that returns the file names of the batch, called only for the error.
    """
    if not losses or torch.isfinite(sum(value.detach() for value in losses.values())):
        return
    terms = ", ".join(non_finite(losses)) or f"the sum of {', '.join(losses)}"
    names = ", ".join(images())
    raise FloatingPointError(
        f"Training stopped: {terms} is not finite for the images {names}; the last checkpoint is unharmed."
    )
