"""Writers of losses and figures beside Detectron2's own: a table, and a project of Weights & Biases."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from d2kit.require import require_extra

WINDOW = 20  # iterations of the median that smooths losses, as in Detectron2's metrics.json


class _FigureWriter(EventWriter):
    """A writer of the figures that are new since its last call."""

    def __init__(self):
        self._last = -1

    def new_figures(self) -> dict[int, dict[str, float]]:
        """Return the figures by iteration and name, in the order of the iterations."""
        figures = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if iteration > self._last:
                figures[iteration][name] = value
        self._last = max(figures, default=self._last)
        return dict(sorted(figures.items()))


class CSVWriter(_FigureWriter):
    """Appends figures as rows "iteration, name, value" to a table, so that later figures need no new column."""

    def __init__(self, path: str | os.PathLike):
        """
        Args:
            path: file, which a resumed training continues; as in metrics.json, what it trains again is there twice.
        """
        super().__init__()
        self._path = Path(path)
        if not self._path.exists():
            self._append([("iteration", "name", "value")])

    def write(self) -> None:
        """Append the new figures."""
        figures = self.new_figures()
        self._append((i, name, value) for i, values in figures.items() for name, value in sorted(values.items()))

    def _append(self, rows: Iterable[tuple]) -> None:
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


class WandbWriter(_FigureWriter):
    """Logs figures to a project of Weights & Biases."""

    def __init__(self, project: str, cfg: CfgNode):
        """
        Args:
            project: name of the project.
            cfg: configuration of the training, which the run shows; OUTPUT_DIR gets the folder `wandb`.

        Raises:
            ImportError: wandb is not installed.
        """
        super().__init__()
        wandb = require_extra("wandb", "wandb")
        self._run = wandb.init(project=project, dir=cfg.OUTPUT_DIR, config=yaml.safe_load(cfg.dump()), resume="auto")

    def write(self) -> None:
        """Log the new figures."""
        for iteration, figures in self.new_figures().items():
            self._run.log(figures, step=iteration)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def build_writers(cfg: CfgNode) -> list[EventWriter]:
    """Return the writers that the keys of WRITERS name."""
    writers = []
    if cfg.WRITERS.CSV:
        writers.append(CSVWriter(Path(cfg.OUTPUT_DIR, "metrics.csv")))
    if cfg.WRITERS.WANDB:
        writers.append(WandbWriter(cfg.WRITERS.WANDB, cfg))
    return writers
