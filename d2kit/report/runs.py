"""What a training left in its OUTPUT_DIR, read leniently: only metrics.json has to be there."""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from d2kit.run_folder import leaves

_LOG_BYTES = 2**20  # The versions are at the beginning of log.txt.
_VERSION = r"^(Python|PyTorch|torchvision|detectron2|numpy|cv2) {2,}([\w.+]+)"
_OWN_VERSION = r"INFO: This is (\w+) ([\w.+]+)\."


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        folder: its OUTPUT_DIR.
        name: name of the folder, for legends.
        figures: by the name of a figure its value at each iteration, by rising iteration.
        config: values of config.yaml by their full keys; empty where there is no such file.
        versions: versions of the libraries by name, from log.txt; empty where it tells none.
    """

    folder: Path
    name: str
    figures: dict[str, dict[int, float]]
    config: dict[str, Any]
    versions: dict[str, str]

    def last(self, figure: str) -> float | None:
        """Return the last value of a figure, or None if there is none."""
        values = self.figures.get(figure)
        return None if not values else list(values.values())[-1]

    @property
    def iterations(self) -> int:
        """The number of iterations that it made, up to its last row with a loss."""
        return max(self.figures.get("total_loss", [-1])) + 1

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to go on with: the best one if there is one, else that of the training's end."""
        best = self.folder / "model_best.pth"
        return best if best.is_file() else self.folder / "model_final.pth"


def read_run(folder: str | os.PathLike) -> Run:
    """Read the folder of a training.

    Raises:
        FileNotFoundError: the folder holds no metrics.json.
        ValueError: metrics.json holds no figure.
    """
    folder = Path(folder)
    path = folder / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"'{folder}' is no folder of a training: it holds no metrics.json.")
    figures = _read_figures(path)
    if not figures:
        raise ValueError(f"'{path}' holds no figure.")
    return Run(folder, folder.resolve().name, figures, _read_config(folder), _read_versions(folder))


def _rows(path: Path) -> Iterator[dict]:
    """Yield the rows of metrics.json with a valid iteration; lines that a kill tore are passed over."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        iteration = row.get("iteration") if isinstance(row, dict) else None
        if isinstance(iteration, int) and iteration >= 0:
            yield row


def _read_figures(path: Path) -> dict[str, dict[int, float]]:
    """Return the values of each figure by iteration.

    A training that was resumed, or started anew, repeats iterations: what was after them before no longer counts.
    """
    rows: dict[int, dict] = {}
    newest = -1
    for row in _rows(path):
        iteration = row["iteration"]
        if iteration < newest:
            rows = {earlier: values for earlier, values in rows.items() if earlier < iteration}
        rows[iteration] = rows.get(iteration, {}) | row
        newest = iteration
    figures: dict[str, dict[int, float]] = {}
    for iteration, row in sorted(rows.items()):
        for name, value in row.items():
            if name != "iteration" and isinstance(value, (int, float)) and math.isfinite(value):
                figures.setdefault(name, {})[iteration] = float(value)
    return figures


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return dict(leaves(content)) if isinstance(content, dict) else {}


def _read_versions(folder: Path) -> dict[str, str]:
    try:
        with open(folder / "log.txt", "rb") as file:
            text = file.read(_LOG_BYTES).decode(errors="replace")
    except OSError:
        return {}
    own = re.findall(_OWN_VERSION, text)
    return dict(own + re.findall(_VERSION, text, re.MULTILINE))
