"""Hooks of the teacher-student training."""

import logging

from detectron2.engine import HookBase

from d2kit.ema import update_ema
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
