"""Hooks of the teacher-student training."""

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
    """Guided burn-in and EMA of the teacher (S4M, section "semi-supervised training").

    Before iteration `burn_in` the teacher keeps its weights; after that iteration's step it becomes the student, and
    from then on it is the student's exponential moving average. The hook has no state of its own: the iteration
    decides.
    """

    def __init__(self, decay: float, burn_in: int):
        """
        Args:
            decay: share of the teacher that stays, in [0, 1].
            burn_in: iterations with a fixed teacher; 0: EMA from the first iteration.
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
        return read_note(self._note).get("iterations", 0)

    def _write(self, iterations: int) -> None:
        if comm.is_main_process():
            with atomic_write(self._note, "w") as file:
                json.dump({"iterations": iterations}, file)
