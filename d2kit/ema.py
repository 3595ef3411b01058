"""Exponential moving averages of weights."""

import torch
from torch import nn


@torch.no_grad()
def update_ema(target: nn.Module, source: nn.Module, decay: float) -> None:
    """Set target to decay * target + (1 - decay) * source, in place.

    Floating-point buffers (running statistics) are averaged like parameters; integer buffers are copied. A decay of 0
    copies everything.

    Args:
        target, source: two instances of one architecture.
        decay: weight of the target's old values, in [0, 1].
    """
    old, new = target.state_dict(), source.state_dict()
    floating = [key for key, value in old.items() if value.is_floating_point()]
    torch._foreach_lerp_([old[k] for k in floating], [new[k].to(old[k]) for k in floating], 1.0 - decay)
    for key in old.keys() - set(floating):
        old[key].copy_(new[key])
