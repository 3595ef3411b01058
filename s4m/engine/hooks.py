"""Hooks update the teacher, and make up an evaluation that a killed training did not finish."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2kit.ema import update_ema
from d2kit.files import atomic_write
from d2kit.run_folder import read_note
from d2kit.trainer import unwrap_ddp

logger = logging.getLogger(__name__)


class MeanTeacher(HookBase):
    """Keeps the teacher fixed during burn-in and then updates it as an EMA (S4M, "semi-supervised training").

    The teacher keeps its weights during the first `burn_in` iterations and takes the student's at their end; from then
    on it is the student's exponential moving average. The hook has no state: the iteration decides.
    """

    def __init__(self, decay: float, burn_in: int):
        """
        Args:
            decay: share of its weights that the teacher keeps at each iteration, in [0, 1].
            burn_in: number of iterations with a fixed teacher; 0 begins with the EMA.
        """
        if not 0 <= decay <= 1:
            raise ValueError(f"S4M.TEACHER.EMA_DECAY must lie in [0, 1], not {decay}.")
        self._decay = decay
        self._burn_in = burn_in

    def after_step(self) -> None:
        """Update the teacher."""
        model = unwrap_ddp(self.trainer.model)
        done = self.trainer.iter + 1
        if model.teacher is None or done < self._burn_in:
            return
        if done == self._burn_in:
            logger.info("Burn-in ends after iteration %d: the teacher becomes the student.", self.trainer.iter)
            model.reset_teacher()
        else:
            update_ema(model.teacher, model.student, self._decay)


class EvaluationCatchUp(HookBase):
    """Makes up, on a resume, the evaluation that a killed training did not finish after its last checkpoint.

    Training writes the checkpoint of an iteration before it evaluates it. `last_evaluation.json` holds the number of
    iterations before the last finished evaluation. If a resume begins at a later multiple of the period, the hooks do
    again what they do after that iteration's step. The evaluation at the end of a training is an exception, because
    Detectron2 itself repeats it. This hook must come after the other hooks.
    """

    def __init__(self, period: int, folder: str | os.PathLike, hooks: Sequence[HookBase]):
        """
        Args:
            period: number of iterations between evaluations, positive.
            folder: folder of `last_evaluation.json`.
            hooks: the hooks that run at an evaluation, in order: EvalHook, and those that need or write its figures.
                A process may lack any of them, but every process needs this hook.
        """
        self._period = period
        self._file = Path(folder, "last_evaluation.json")
        self._hooks = list(hooks)

    def before_train(self) -> None:
        """Evaluate the resumed checkpoint if that is not done; a training from its start deletes the file."""
        trainer = self.trainer
        done = trainer.start_iter
        if done == 0 and comm.is_main_process():
            self._file.unlink(missing_ok=True)
        missed = 0 < done < trainer.max_iter and done % self._period == 0 and self._evaluated() < done
        # The main process decides, because the folder of another process may be elsewhere.
        if not comm.all_gather(missed)[0]:
            return
        logger.info("The evaluation after %d iterations was not finished and is made up now.", done)
        trainer.iter = trainer.storage.iter = done - 1
        for hook in self._hooks:
            hook.after_step()
        self._write(done)
        trainer.iter = trainer.storage.iter = done

    def after_step(self) -> None:
        """Record that an evaluation is finished."""
        done = self.trainer.iter + 1
        if done % self._period == 0 and done != self.trainer.max_iter:
            self._write(done)

    def after_train(self) -> None:
        """Record that the last evaluation is finished."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._write(self.trainer.max_iter)

    def _evaluated(self) -> int:
        """Return the number of iterations before the last finished evaluation, or 0 if none is known."""
        return read_note(self._file, "iterations").get("iterations", 0)

    def _write(self, iterations: int) -> None:
        if comm.is_main_process():
            with atomic_write(self._file, "w") as file:
                json.dump({"iterations": iterations}, file)
