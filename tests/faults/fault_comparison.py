"""The differences between what two trainings left in their folders, bit by bit."""

import json
import math
from pathlib import Path

import torch

# Logs and reports hold times, and `earlier_*` what a training without a checkpoint left.
IGNORED = ("log.txt", "events.*", "config.yaml", ".lock", "metrics.json", "report.html", "earlier_*/*")
# Beginnings of the figures of metrics.json that no window of iterations smooths, but for losses and times.
FIGURES = ("student/", "teacher/", "pseudo_label_quality/", "istd", "labels/", "outer/")


def differences(whole: Path, resumed: Path) -> list[str]:
    """Return one line for each file of either folder that the other lacks, or that differs in it.

    Weights and the states of a checkpoint are compared value by value, other files byte by byte, and metrics.json by
    the last value of each evaluation figure of each iteration.
    """
    one, other = _files(whole), _files(resumed)
    lines = [f"{name} is only in the {'whole' if name in one else 'resumed'} training" for name in sorted(one ^ other)]
    lines += [f"{name} differs" for name in sorted(one & other) if not _same_file(whole / name, resumed / name)]
    expected, actual = figures(whole), figures(resumed)
    keys = sorted(key for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key))
    lines += [f"metrics.json: {key} is {actual.get(key)}, not {expected.get(key)}" for key in keys]
    return lines


def figures(folder: Path) -> dict[tuple[int, str], float | str]:
    """Return the last value of each evaluation figure in metrics.json, by (iteration, name); a torn line is skipped."""
    values = {}
    for text in Path(folder, "metrics.json").read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text, parse_constant=str)  # NaN becomes a word, which equals itself.
        except ValueError:
            continue
        values |= {(line["iteration"], key): value for key, value in line.items() if key.startswith(FIGURES)}
    return values


def _files(folder: Path) -> set[str]:
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix() for path in paths if not any(path.match(pattern) for pattern in IGNORED)}


def _same_file(one: Path, other: Path) -> bool:
    if one.suffix != ".pth":
        return one.read_bytes() == other.read_bytes()
    # Detectron2 writes predictions with arrays in them, which `weights_only` refuses.
    return _same(*(torch.load(path, weights_only=not path.stem.endswith("predictions")) for path in (one, other)))


def _same(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))
