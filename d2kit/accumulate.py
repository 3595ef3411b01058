"""Gradient accumulation as an optimizer, so that Detectron2's trainers need not know of it."""

from typing import Any

import torch


class AccumulatingOptimizer(torch.optim.Optimizer):
    """Another optimizer, of which every `steps`-th call of `step` uses the mean gradient of the last `steps` calls.

    Parameter groups, state and hooks are the other optimizer's. The gradients that arrive between its steps are kept in
    buffers, which are part of `state_dict`. It works under AMP, because each call sees gradients that were unscaled for
    it, and under gradient clipping, which then clips the mean.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int):
        """
        Args:
            optimizer: any optimizer.
            steps: at least 1.
        """
        self.optimizer, self.steps = optimizer, steps
        self.accumulated: dict[int, torch.Tensor] = {}
        self.accumulated_calls = 0

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # a copy that is not filled yet
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
            held = self.accumulated.get(index)
            self.accumulated[index] = share if held is None else held.add_(share)
        self.accumulated_calls += 1
        if self.accumulated_calls < self.steps:
            return
        for index, parameter in enumerate(self._parameters()):
            parameter.grad = self.accumulated.get(index)
        self.optimizer.step(closure)
        self.accumulated, self.accumulated_calls = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's own state with `accumulated`, buffers by position of the parameter, and their calls."""
        own = {"accumulated": dict(self.accumulated), "accumulated_calls": self.accumulated_calls}
        return {**self.optimizer.state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, or the state of an optimizer that did not accumulate."""
        state = dict(state_dict)
        held = state.pop("accumulated", {})
        self.accumulated_calls = state.pop("accumulated_calls", 0)
        self.optimizer.load_state_dict(state)
        parameters = self._parameters()
        self.accumulated = {index: value.to(parameters[index].device) for index, value in held.items()}


def with_accumulation(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.Optimizer:
    """The optimizer itself for 1 step, else one that accumulates the gradients of `steps` passes for each of its steps.

    Raises:
        ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"SOLVER.ACCUMULATE must be at least 1, not {steps}.")
    return optimizer if steps == 1 else AccumulatingOptimizer(optimizer, steps)
