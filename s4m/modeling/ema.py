"""The exponential moving average that makes the teacher."""

import torch
from torch import nn


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, in place.

    Floating buffers (running statistics) are averaged like parameters; integer buffers are copied. decay 0 copies
    everything.

    Args:
        teacher, student: two instances of one architecture.
        decay: in [0, 1].
    """
    target, source = teacher.state_dict(), student.state_dict()
    floating = [key for key, value in target.items() if value.is_floating_point()]
    if floating:
        torch._foreach_lerp_([target[k] for k in floating], [source[k].to(target[k]) for k in floating], 1.0 - decay)
    for key in target.keys() - set(floating):
        target[key].copy_(source[key])
