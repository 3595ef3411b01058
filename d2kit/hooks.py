"""Hooks that both packages train with."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.utils import comm

from d2kit.files import atomic_write
from d2kit.rng import derive_seed, seed_everything

logger = logging.getLogger(__name__)


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


class EvaluationCatchUp(HookBase):
    """Makes up, on a resume, the evaluation that a killed training did not finish after its last checkpoint.

    For trainings that write the checkpoint of an iteration before they evaluate it. `last_evaluation.json` tells after
    how many iterations the last finished evaluation was; a resume after a multiple of the period that is beyond it
    lets the hooks do again what they do after that iteration's step. The last evaluation of a training is Detectron2's
    own to repeat. It stands behind the other hooks.
    """

    def __init__(self, period: int, folder: str | os.PathLike, hooks: Sequence[HookBase]):
        """
        Args:
            period: iterations between evaluations, positive.
            folder: of the note.
            hooks: what runs at an evaluation, in that order: EvalHook, and those that need its figures or write them.
                Every process has this hook, whichever of the others it has.
        """
        self._period, self._note, self._hooks = period, Path(folder, "last_evaluation.json"), list(hooks)

    def before_train(self) -> None:
        """Evaluate what training resumes from where that is not done; a training from its start forgets the note."""
        trainer, done = self.trainer, self.trainer.start_iter
        if done == 0 and comm.is_main_process():
            self._note.unlink(missing_ok=True)
        missed = 0 < done < trainer.max_iter and done % self._period == 0 and self._evaluated() < done
        # The main process decides: the folder of another may be elsewhere.
        if not comm.all_gather(missed)[0]:
            return
        logger.info("The evaluation after %d iterations was not finished; making up for it.", done)
        trainer.iter = trainer.storage.iter = done - 1
        for hook in self._hooks:
            hook.after_step()
        self._write(done)
        trainer.iter = trainer.storage.iter = done

    def after_step(self) -> None:
        """Note an evaluation that is done."""
        done = self.trainer.iter + 1
        if done % self._period == 0 and done != self.trainer.max_iter:
            self._write(done)

    def after_train(self) -> None:
        """Note the last evaluation."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._write(self.trainer.max_iter)

    def _evaluated(self) -> int:
        """Iterations before the last finished evaluation; 0: none is known."""
        return json.loads(self._note.read_text(encoding="utf-8"))["iterations"] if self._note.is_file() else 0

    def _write(self, iterations: int) -> None:
        if comm.is_main_process():
            with atomic_write(self._note, "w") as file:
                json.dump({"iterations": iterations}, file)
