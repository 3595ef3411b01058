"""One sentence for a training whose numbers are not finite any more."""

from collections.abc import Callable, Iterable, Mapping

import torch


def non_finite(values: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinity."""
    return [name for name, value in values.items() if value.is_floating_point() and not value.isfinite().all()]


def require_finite_losses(losses: Mapping[str, torch.Tensor], images: Callable[[], Iterable[str]]) -> None:
    """Raise FloatingPointError unless the sum of the losses is finite; the device is waited for once.

    Args:
        losses: scalars by name, any number of them.
        images: gives the names of the images that the losses are of; called only for the error.
    """
    if not losses or torch.isfinite(sum(value.detach() for value in losses.values())):
        return
    terms = ", ".join(non_finite(losses)) or f"the sum of {', '.join(losses)}"
    names = ", ".join(images())
    raise FloatingPointError(
        f"Training stopped: {terms} is not finite for the images {names}; the last checkpoint is unharmed."
    )
