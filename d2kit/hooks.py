"""Training hooks that both packages use."""

import json
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.utils import comm

from d2kit.files import atomic_write
from d2kit.rng import derive_seed, seed_everything


class SeedEveryStep(HookBase):
    """Seeds all generators before each step from (seed, iteration, rank).

    A resumed run then draws the same numbers as an uninterrupted run, although no file holds a generator's state.
    """

    def __init__(self, seed: int):
        """
        Args:
            seed: the seed of the run, cfg.SEED, which is not negative.
        """
        self._seed = seed

    def before_step(self) -> None:
        """Seed the generators for the next step."""
        seed_everything(derive_seed(self._seed, "step", self.trainer.iter, comm.get_rank()))


class BestCheckpointer(d2_hooks.BestCheckpointer):
    """Detectron2's BestCheckpointer that remembers the best value over a resume.

    The file `model_best.json` beside `model_best.pth` holds the value and its iteration. A checkpoint cannot hold them,
    because it is written before the evaluation of its iteration.
    """

    def before_train(self) -> None:
        """Read the best value of the former run, unless the training starts anew."""
        path = self._record_file()
        if self.trainer.start_iter > 0 and path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            self.best_metric = record["metric"]
            self.best_iter = record["iteration"]

    def _record_file(self) -> Path:
        return Path(self._checkpointer.save_dir, f"{self._file_prefix}.json")

    def _best_checking(self) -> None:
        before = self.best_iter
        super()._best_checking()
        if self.best_iter != before:
            with atomic_write(self._record_file(), "w") as file:
                json.dump({"metric": float(self.best_metric), "iteration": int(self.best_iter)}, file)
