"""A real training in a process that is forked from one with all imports done, and that may kill itself at an event."""

import argparse
import itertools
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing import forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

from detectron2.engine import HookBase
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.events import JSONWriter
from fault_data import istd_options, s4m_options

from d2kit.trainer import ResumableTrainer
from istd.commands import train as istd_train
from istd.evaluation.evaluator import ISTDEvaluator
from istd.pseudo_masks.state import PseudoMasks
from s4m.commands import train as s4m_train

HERE = Path(__file__).resolve().parent
COMMANDS = {"s4m": s4m_train, "istd": istd_train}
OPTIONS = {"s4m": s4m_options, "istd": istd_options}
TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{8}\.tmp")  # a file that `d2kit.files.atomic_write` has not finished

DIGEST = re.compile(r"[0-9a-f]{8,}")  # Names of caches and clusters differ from folder to folder by it.


class Events:
    """Names the events of this process in a file, one a line, and kills the process at one of them.

    Events are "start ITERATION", "after HOOK ITERATION", "ended HOOK" (after the hook's after_train), "score", "mask",
    and for each file that is written "half NAME", "whole NAME" (before it gets its name) and "written NAME". The
    second event of a name ends in " #2", the third in " #3".
    """

    def __init__(self, kill_at: str | int | None, record: Path):
        """
        Args:
            kill_at: the name or the number from 0 of the event at which the process dies; None: at none.
            record: the file of the names.
        """
        self._kill_at = kill_at
        self._numbers = itertools.count()
        self._times = Counter()
        self._record = record
        record.write_text("", encoding="utf-8")

    def __call__(self, name: str, before_death: Callable[[], None] = lambda: None) -> None:
        """Tell that an event happens; `before_death` is called before the process dies of it."""
        self._times[name] += 1
        name = name if self._times[name] == 1 else f"{name} #{self._times[name]}"
        with self._record.open("a", encoding="utf-8") as file:
            print(name, file=file)
        if self._kill_at in (name, next(self._numbers)):
            before_death()
            os.kill(os.getpid(), signal.SIGKILL)


class Marker(HookBase):
    """Tells the events of the hook before it."""

    def __init__(self, events: Events, hook: str):
        self._events = events
        self._hook = hook

    def after_step(self) -> None:
        self._events(f"after {self._hook} {self.trainer.iter}")

    def after_train(self) -> None:
        self._events(f"ended {self._hook}")


class Starts(HookBase):
    """Tells the starts of iterations."""

    def __init__(self, events: Events):
        self._events = events

    def before_step(self) -> None:
        self._events(f"start {self.trainer.iter}")


def watch(events: Events) -> None:
    """Let the functions that train, score and write in this process tell their events."""
    register_hooks = ResumableTrainer.register_hooks

    def register_marked(trainer, hooks):
        marked = [item for hook in hooks for item in (hook, Marker(events, type(hook).__name__))]
        register_hooks(trainer, [Starts(events), *marked])

    ResumableTrainer.register_hooks = register_marked
    for owner, function, name in (
        (COCOEvaluator, "process", "score"),
        (ISTDEvaluator, "process", "score"),
        (PseudoMasks, "put", "mask"),
    ):
        setattr(owner, function, _told(getattr(owner, function), events, name))
    _watch_files(events)


def _told(function: Callable, events: Events, name: str) -> Callable:
    def wrapped(*args, **options):
        events(name)
        return function(*args, **options)

    return wrapped


def _watch_files(events: Events) -> None:
    fsync, replace, write = os.fsync, os.replace, JSONWriter.write

    def name_of(path) -> str:
        return DIGEST.sub("*", TEMPORARY.sub(r"\1", Path(path).name))

    def told_fsync(file):
        path = os.readlink(f"/proc/self/fd/{file}")
        if path.endswith(".tmp"):
            events(f"half {name_of(path)}", lambda: os.truncate(path, os.path.getsize(path) // 2))
        fsync(file)

    def told_replace(source, target, **options):
        events(f"whole {name_of(target)}")
        replace(source, target, **options)
        events(f"written {name_of(target)}")

    def told_write(writer):
        path = writer._file_handle.name
        before = os.path.getsize(path)
        events("before metrics.json")
        write(writer)
        after = os.path.getsize(path)
        if after > before:
            events("half metrics.json", lambda: os.truncate(path, (before + after) // 2))
            events("written metrics.json")

    os.fsync, os.replace, JSONWriter.write = told_fsync, told_replace, told_write


def _train(package: str, arguments: list[str], log: Path, kill_at: str | int | None, record: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    watch(Events(kill_at, record))
    parser = argparse.ArgumentParser()
    COMMANDS[package].add_arguments(parser)
    COMMANDS[package].run(parser.parse_args(arguments))


class Trainings:
    """Starts trainings of one package on small synthetic data."""

    def __init__(self, package: str, folder: Path):
        """
        Args:
            package: "s4m" (stage 2) or "istd" (hierarchical distillation).
            folder: the folder of the data and of all trainings.
        """
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        # The server imports this module by its path. It has one thread, as only such a process forks safely.
        path = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH")]))
        with patch.dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""):
            forkserver.ensure_running()
        self._package = package
        self.folder = folder
        self._options = OPTIONS[package](folder)

    def start(self, name: str, *, resume: bool = False, kill_at: str | int | None = None) -> BaseProcess:
        """Start or resume the training in the folder `name`."""
        arguments = ["--config-file", str(HERE / f"{self._package}.yaml"), *(["--resume"] if resume else [])]
        cache = "S4M.SAM.CACHE" if self._package == "s4m" else "ISTD.VFM.CACHE"
        arguments += ["OUTPUT_DIR", str(self.folder / name), cache, str(self.folder / f"{name}_cache"), *self._options]
        log, record = self.folder / f"{name}.log", self.events_file(name)
        process = self._context.Process(target=_train, args=(self._package, arguments, log, kill_at, record))
        process.start()
        return process

    def events_file(self, name: str) -> Path:
        """The file of the events of the last process of a training."""
        return self.folder / f"{name}.events"
