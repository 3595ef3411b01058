"""Hooks that both packages train with."""

from typing import Any

from detectron2.engine import HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.utils import comm

from d2kit.rng import derive_seed, seed_everything


class SeedEveryStep(HookBase):
    """Seeds all generators before each step from (seed, iteration, rank).

    A resumed run then draws what the uninterrupted one would have drawn, without any generator's state in a file.
    """

    def __init__(self, seed: int):
        """
        Args:
            seed: cfg.SEED, not negative.
        """
        self._seed = seed

    def before_step(self) -> None:
        """Seed for the coming step."""
        seed_everything(derive_seed(self._seed, "step", self.trainer.iter, comm.get_rank()))


class BestCheckpointer(d2_hooks.BestCheckpointer):
    """Detectron2's BestCheckpointer that remembers the best value over a resume."""

    def state_dict(self) -> dict[str, Any]:
        """The best value and its iteration; empty before the first evaluation."""
        if self.best_metric is None:
            return {}
        return {"best_metric": float(self.best_metric), "best_iter": int(self.best_iter)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.best_metric = state.get("best_metric")
        self.best_iter = state.get("best_iter")
