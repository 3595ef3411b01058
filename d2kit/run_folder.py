"""OUTPUT_DIR as the folder of one training: who holds it, and what a killed process left in it."""

import contextlib
import fnmatch
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import portalocker
import yaml
from detectron2.config import CfgNode

from d2kit.files import damage

logger = logging.getLogger(__name__)

LOCK = ".lock"
# Keys, or beginnings of keys, that may change at a resume: they do not decide what is trained.
FREE = (
    "CUDNN_BENCHMARK",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.TEST",
    "ISTD.SCHEDULE.CHECKPOINT",
    "ISTD.SCHEDULE.EVAL",
    "ISTD.TEST.",
    "ISTD.VFM.CACHE",
    "ISTD.VFM.CHECKPOINT",
    "MODEL.DEVICE",
    "MODEL.VIT.CHECKPOINT",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "S4M.BEST_METRIC",
    "S4M.COCO_EVAL.",
    "S4M.LOG_PERIOD",
    "S4M.QUALITY_",
    "S4M.SAM.CACHE",
    "S4M.SAM.CHECKPOINT",
    "S4M.SAM.DECODE_CHUNK",
    "S4M.SAM.ENCODE_BATCH",
    "S4M.SD.CHUNK",
    "S4M.TEACHER.WEIGHTS",
    "S4M.TEST.",
    "SOLVER.AMP.",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.",
    "VIS_PERIOD",
    "WRITERS.",
)
LENGTH = ("ISTD.SCHEDULE.EPOCHS", "SOLVER.MAX_ITER")  # A training may become longer.
# Seconds to wait for a lock: the loader processes of a killed training hold it until they notice that they are alone.
PATIENCE = 8.0


@contextlib.contextmanager
def hold_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder, made when missing, for one training; what a killed training left half written is removed.

    The kernel frees the lock when the process dies. A file system without locks gives a warning and no protection.

    Raises:
        BlockingIOError: another training holds the folder; the sentence has its process number and its start.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with hold_file(folder / LOCK, f"OUTPUT_DIR '{folder}' is held by another training"):
        _clean(folder)
        yield


@contextlib.contextmanager
def hold_file(path: Path, told: str) -> Iterator[None]:
    """Hold a lock file, made when missing, for one process; its text names the process.

    Raises:
        BlockingIOError: another process holds the file; the sentence is `told` with its number and its start.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(portalocker.Lock(path, "a+", timeout=PATIENCE))
        except portalocker.AlreadyLocked:
            holder = path.read_text(encoding="utf-8").strip() or "a process that does not say its number"
            raise BlockingIOError(f"{told}: {holder}.") from None
        except portalocker.LockException as error:
            logger.warning("'%s' cannot be locked (%s): start no second process for it.", path, error)
            file = stack.enter_context(open(path, "a+", encoding="utf-8"))
        file.truncate(0)
        file.write(f"process {os.getpid()}, which began {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


def _clean(folder: Path) -> None:
    """Remove temporary files of `d2kit.files.atomic_write`, and end the last lines of metrics.json and metrics.csv.

    Folders inside that other trainings have held stay as they are.
    """
    for place, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not Path(place, name, LOCK).exists()]
        for name in fnmatch.filter(names, ".*.tmp"):
            Path(place, name).unlink()
    for metrics in (folder / "metrics.json", folder / "metrics.csv"):
        if metrics.is_file() and metrics.stat().st_size and not metrics.read_bytes().endswith(b"\n"):
            logger.warning("The last line of '%s' is cut off, as its training was killed; it is passed over.", metrics)
            with open(metrics, "ab") as file:
                file.write(b"\n")


def read_note(path: Path, *keys: str) -> dict[str, Any]:
    """The content of a small json file with a number for each key; {} if it is missing or, with a warning, damaged."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    numbers = [content.get(key) for key in keys] if isinstance(content, dict) else [None]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        logger.warning("'%s' is damaged and passed over.", path)
        return {}
    return content


def can_resume(folder: str | os.PathLike) -> bool:
    """Whether a folder holds a checkpoint to resume from: the file `last_checkpoint`, or a single checkpoint.

    A training that is killed after its first checkpoint is written, and before it is tagged, leaves the latter; in a
    training shorter than `SOLVER.CHECKPOINT_PERIOD` that is `model_final.pth`.

    Raises:
        ValueError: there are several checkpoints, but no such file: a training from its start would take their place.
    """
    paths = _checkpoints(folder)
    if Path(folder, "last_checkpoint").is_file() or len(paths) == 1:
        return True
    if not paths:
        return False
    raise ValueError(
        f"'{folder}' holds '{paths[0].name}', but no file last_checkpoint that names the one to resume from: "
        "write its name into that file, or train without --resume."
    )


def checkpoint_to_resume(folder: str | os.PathLike) -> Path:
    """The checkpoint that a resumed training continues from: the one that `last_checkpoint` names.

    If that one is missing or damaged, or if there is no such file, it is the newest whole one of the others, with a
    warning.

    Raises:
        ValueError: none is whole.
    """
    folder = Path(folder)
    tag = folder / "last_checkpoint"
    tagged = [folder / tag.read_text(encoding="utf-8", errors="replace").strip()] if tag.is_file() else []
    if not tagged:
        logger.warning("'%s' has no file last_checkpoint: the training resumes from its only checkpoint.", folder)
    for path in [*tagged, *_checkpoints(folder)]:
        reason = damage(path) if os.path.isfile(path) else "it is missing"  # Path.is_file raises for a name too long.
        if not reason:
            return path
        logger.warning("The checkpoint '%s' is passed over: %s.", path, reason)
    raise ValueError(f"'{folder}' holds no whole checkpoint to resume from: see the warnings.")


def checkpoint_to_use(run: str | os.PathLike) -> Path:
    """The checkpoint of a training run that answers: the best one, or where there is none the newest whole one.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: none is whole.
    """
    best = Path(run, "model_best.pth")
    if best.is_file():
        return best
    if not can_resume(run):
        raise FileNotFoundError(f"The run '{run}' holds no checkpoint of a training.")
    return checkpoint_to_resume(run)


def _checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The periodic checkpoints of a folder, the newest first, and then `model_final.pth`."""
    final = Path(folder, "model_final.pth")
    return [*sorted(Path(folder).glob("model_[0-9]*.pth"), reverse=True), *([final] if final.is_file() else [])]


def set_aside(folder: str | os.PathLike) -> None:
    """Move what an earlier training left, and a resume or a test would take for this one's, into `earlier_<number>`."""
    folder = Path(folder)
    names = ("last_checkpoint", "last_evaluation.json", "model_best.json", "test/results.json")
    paths = [path for path in (*folder.glob("model_*.pth"), *(folder / name for name in names)) if path.is_file()]
    if not paths:
        return
    number = next(number for number in itertools.count(1) if not (folder / f"earlier_{number}").exists())
    for path in paths:
        place = folder / f"earlier_{number}" / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    logger.warning("The checkpoints of an earlier training in '%s' are in its folder 'earlier_%d' now.", folder, number)


def config_of(run: str | os.PathLike) -> Path:
    """The configuration of a training run; FileNotFoundError if the folder holds none."""
    path = Path(run, "config.yaml")
    if not path.is_file():
        raise FileNotFoundError(f"'{run}' is no folder of a training: it holds no config.yaml.")
    return path


def training_keys(cfg: CfgNode) -> dict[str, Any]:
    """The full names and values of all keys that decide what is trained, which are those that are not FREE."""
    return {key: value for key, value in leaves(yaml.safe_load(cfg.dump())) if not key.startswith(FREE)}


def require_same_training(before: Mapping[str, Any], cfg: CfgNode) -> None:
    """Refuse to resume a training whose configuration says to train something else.

    Args:
        before: `training_keys` of the checkpoint's configuration.
        cfg: the configuration of now. A longer training, and keys that only one of both knows, are no difference.

    Raises:
        ValueError: the sentence names every key that differs, with both values.
    """
    now = training_keys(cfg)
    changed = [key for key in before.keys() & now.keys() if before[key] != now[key]]
    changed = [key for key in changed if key not in LENGTH or now[key] < before[key]]
    if changed:
        differences = ", ".join(f"{key} (was {before[key]!r}, is {now[key]!r})" for key in sorted(changed))
        raise ValueError(
            f"The checkpoint to resume is of a training with other values of {differences}: restore them, choose "
            "another OUTPUT_DIR, or give --allow-changed."
        )


def leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of each key of a nested configuration."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
