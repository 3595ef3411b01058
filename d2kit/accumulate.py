"""Gradient accumulation as an optimizer, so that Detectron2's trainers need not know of it."""

from typing import Any

import torch


def with_accumulation(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.Optimizer:
    """Make every `steps`-th call of `optimizer.step()` use the mean of the gradients of the last `steps` calls.

    The optimizer keeps its type's behaviour; gradients that arrive between are kept in buffers, which are part of its
    `state_dict`. It works under AMP, because each call sees gradients that were unscaled for it, and under gradient
    clipping, which then clips the mean.

    Args:
        optimizer: any optimizer; changed in place.
        steps: 1 leaves it as it is.

    Raises:
        ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"SOLVER.ACCUMULATE must be at least 1, not {steps}.")
    if steps == 1:
        return optimizer
    base = type(optimizer)

    class Accumulating(base):
        """The optimizer with buffers between its real steps."""

        def _held(self) -> list[torch.nn.Parameter]:
            return [p for group in self.param_groups for p in group["params"]]

        def step(self, closure: Any = None) -> None:
            for index, parameter in enumerate(self._held()):
                if parameter.grad is None:
                    continue
                share = parameter.grad / steps
                held = self.accumulated.get(index)
                self.accumulated[index] = share if held is None else held.add_(share)
            self.accumulated_calls += 1
            if self.accumulated_calls < steps:
                return
            for index, parameter in enumerate(self._held()):
                parameter.grad = self.accumulated.get(index)
            self.__class__ = base  # Detectron2's gradient clipping calls super(type(self), self)
            try:
                base.step(self, closure)
            finally:
                self.__class__ = Accumulating
            self.accumulated, self.accumulated_calls = {}, 0

        step.hooked = True  # loading a state would have torch run the step's hooks at each call; base.step runs them

        def state_dict(self) -> dict[str, Any]:
            state = super().state_dict()
            state["accumulated"] = dict(self.accumulated)
            state["accumulated_calls"] = self.accumulated_calls
            return state

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            state = dict(state_dict)
            held = state.pop("accumulated", {})
            self.accumulated_calls = state.pop("accumulated_calls", 0)
            super().load_state_dict(state)
            parameters = self._held()
            self.accumulated = {i: value.to(parameters[i].device) for i, value in held.items()}

    optimizer.__class__ = Accumulating
    optimizer.accumulated, optimizer.accumulated_calls = {}, 0
    return optimizer
