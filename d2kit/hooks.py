"""Training hooks that both packages use."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from d2kit.files import atomic_write
from d2kit.report.report import REPORT, ReportParts, write_report
from d2kit.rng import derive_seed, seed_everything
from d2kit.run_folder import read_note, set_aside

logger = logging.getLogger(__name__)


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
        record = read_note(self._record_file(), "metric", "iteration") if self.trainer.start_iter > 0 else {}
        if record:
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


class KeptCheckpoints(d2_hooks.PeriodicCheckpointer):
    """Detectron2's PeriodicCheckpointer for a folder that an earlier or a killed training wrote to.

    A training that was killed between its last checkpoint and `model_final.pth` has no iteration left when it is
    resumed; the file is then written after it.
    """

    def before_train(self) -> None:
        """Count the checkpoints before the start of a resumed training; set those of an earlier training aside."""
        super().before_train()
        folder = Path(self.checkpointer.save_dir)
        if self.trainer.start_iter == 0:
            set_aside(folder)
        elif self.max_to_keep is not None:
            paths = sorted(folder.glob(f"{self.file_prefix}_[0-9]*.pth"))
            # A later one, which a kill left untagged, is written again.
            before = [path for path in paths if int(path.stem.rpartition("_")[2]) < self.trainer.start_iter]
            self.recent_checkpoints = list(map(str, before))

    def after_train(self) -> None:
        """Write the final file of a training that is resumed after its last iteration.

        What is in its place may be of a shorter training.
        """
        last = self.trainer.start_iter - 1
        if last + 1 >= self.max_iter:
            iteration = self.trainer.iter
            self.trainer.iter = last  # The checkpoint holds it, and a longer training continues after it.
            self.checkpointer.save(f"{self.file_prefix}_final", iteration=last)
            self.trainer.iter = iteration


class PromptWriter(d2_hooks.PeriodicWriter):
    """Detectron2's PeriodicWriter that also writes at evaluations and checkpoints, so that a kill loses no figure."""

    def __init__(self, writers: Sequence[EventWriter], period: int, more: Sequence[int]):
        """
        Args:
            writers: as for PeriodicWriter.
            period: iterations between two writes.
            more: further periods at which it writes, such as those of evaluations and checkpoints; 0 stands for none.
        """
        super().__init__(writers, period)
        self._more = [further for further in more if further > 0]

    def after_step(self) -> None:
        """Write if it is time."""
        done = self.trainer.iter + 1
        if done < self.trainer.max_iter and any(done % further == 0 for further in self._more):
            for writer in self._writers:
                writer.write()
        else:
            super().after_step()


class ReportAtEnd(HookBase):
    """Writes the report of a training that reached its end; an error becomes a warning. It must be the last hook."""

    def __init__(self, parts: ReportParts, folder: str | os.PathLike):
        """
        Args:
            parts: what the package shows.
            folder: OUTPUT_DIR.
        """
        self._parts = parts
        self._folder = Path(folder)

    def after_train(self) -> None:
        """Write `report.html` into the folder."""
        if not comm.is_main_process() or self.trainer.iter + 1 < self.trainer.max_iter:
            return
        try:
            write_report(self._parts, [self._folder], self._folder / REPORT)
        except Exception as error:  # The training is done, whatever keeps its figures from being drawn.
            logger.warning("The report of the training is not written: %s: %s", type(error).__name__, error)
        else:
            logger.info("The report of the training is in '%s'.", self._folder / REPORT)
