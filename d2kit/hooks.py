"""Hooks that both packages train with."""

import json
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.utils import comm

from d2kit.files import atomic_write
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
    """Detectron2's BestCheckpointer that remembers the best value over a resume.

    `model_best.json` beside `model_best.pth` holds the value and its iteration. Checkpoints are written before the
    evaluation of their iteration, so they could not tell.
    """

    def before_train(self) -> None:
        """Take back what is known of the best model, unless training starts anew."""
        path = self._note()
        if self.trainer.start_iter > 0 and path.is_file():
            known = json.loads(path.read_text(encoding="utf-8"))
            self.best_metric, self.best_iter = known["metric"], known["iteration"]

    def _note(self) -> Path:
        return Path(self._checkpointer.save_dir, f"{self._file_prefix}.json")

    def _best_checking(self) -> None:
        before = self.best_iter
        super()._best_checking()
        if self.best_iter != before:
            with atomic_write(self._note(), "w") as file:
                json.dump({"metric": float(self.best_metric), "iteration": int(self.best_iter)}, file)
