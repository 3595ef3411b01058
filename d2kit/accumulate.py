"""Gradient accumulation as an optimizer that Detectron2's trainers use like any other optimizer."""

from typing import Any

import torch


class AccumulatingOptimizer(torch.optim.Optimizer):
    """An optimizer whose every `steps`-th call of `step` uses the mean gradient of the last `steps` calls.

    Parameter groups, state and hooks are those of the optimizer that it wraps. `state_dict` includes the gradients
    accumulated so far. AMP unscales the gradients before each call, and gradient clipping applies to the mean.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int):
        self.optimizer = optimizer
        self.steps = steps
        self.accumulated: dict[int, torch.Tensor] = {}
        self.accumulated_calls = 0

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # copy.copy reads attributes before it fills the new object.
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def step(self, closure: Any = None) -> None:
        """Add the gradients to the buffers; at every `steps`-th call let the optimizer step with their mean."""
        for index, parameter in enumerate(self._parameters()):
            if parameter.grad is None:
                continue
            share = parameter.grad / self.steps
            total = self.accumulated.get(index)
            self.accumulated[index] = share if total is None else total.add_(share)
        self.accumulated_calls += 1
        if self.accumulated_calls < self.steps:
            return
        for index, parameter in enumerate(self._parameters()):
            parameter.grad = self.accumulated.get(index)
        self.optimizer.step(closure)
        self.accumulated = {}
        self.accumulated_calls = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the wrapped optimizer's state, the gradients by parameter index, and the number of their calls."""
        buffers = {"accumulated": dict(self.accumulated), "accumulated_calls": self.accumulated_calls}
        return {**self.optimizer.state_dict(), **buffers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`, or the state of an optimizer without accumulation."""
        state = dict(state_dict)
        gradients = state.pop("accumulated", {})
        self.accumulated_calls = state.pop("accumulated_calls", 0)
        self.optimizer.load_state_dict(state)
        parameters = self._parameters()
        self.accumulated = {index: value.to(parameters[index].device) for index, value in gradients.items()}


def with_accumulation(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.Optimizer:
    """Return the optimizer itself for `steps` 1, else an `AccumulatingOptimizer` around it.

    Raises:
        ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"SOLVER.ACCUMULATE must be at least 1, not {steps}.")
    return optimizer if steps == 1 else AccumulatingOptimizer(optimizer, steps)
