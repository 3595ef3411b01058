"""Ablation of S4M: a grid of switches over seeds, each training a process of tools/train_net.py."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from d2kit.processes import Children
from s4m.engine.compare import RESULT, RUNS, Data, Run, command_of, train

# Switches of the second stage. Structural distillation is one of the first: its rows start from another teacher.
SWITCHES = {
    "PR": "S4M.PR.ENABLED",
    "ARP": "S4M.ARP.ENABLED",
    "boundary": "S4M.BOUNDARY.ENABLED",
    "calibration": "S4M.CALIBRATION.ENABLED",
    "matching": "S4M.MATCHING.ENABLED",
}
PUBLISHED = ("SD", "PR", "ARP")
SAFEGUARDS = ("boundary", "calibration", "matching")  # of SAM's prior: each is added to refinement, not to nothing
ALL = (*PUBLISHED, *SAFEGUARDS)


@dataclass(frozen=True)
class Row:
    """One row of the ablation.

    Attributes:
        run: its training.
        against: name of the row that it differs from by one switch, "" for none.
    """

    run: Run
    against: str = ""


def _semi(title: str, switches: Sequence[str], against: str) -> Row:
    """A training of the second stage with these switches on and all others off."""
    options = [item for name, key in SWITCHES.items() for item in (key, str(name in switches))]
    start = "teacher" if "SD" in switches else "supervised"
    return Row(Run(title, "mean_teacher", start, semi=True, options=tuple(options)), against)


def grid() -> dict[str, Row]:
    """All rows by name, those that others start from first.

    `plus_X` is the mean teacher with one switch; the safeguards of SAM's prior are added to refinement (PR).
    `without_X` is everything but one; without refinement there is nothing to match, so that matching goes with it.
    """
    rows = {
        "supervised": Row(RUNS["supervised"]),
        "teacher": Row(Run("supervised + SD", "teacher"), "supervised"),
        "supervised_longer": Row(RUNS["supervised_longer"], "supervised"),
        "mean_teacher": _semi("mean teacher", (), "supervised_longer"),
    }
    for name in PUBLISHED:
        rows[f"plus_{name}".lower()] = _semi(f"mean teacher + {name}", (name,), "mean_teacher")
    for name in SAFEGUARDS:
        rows[f"plus_{name}"] = _semi(f"mean teacher + PR + {name}", ("PR", name), "plus_pr")
    rows["published"] = _semi("SD + PR + ARP", PUBLISHED, "mean_teacher")
    rows["all"] = _semi("all", ALL, "published")
    for left in ALL:
        gone = (left, "matching") if left == "PR" else (left,)
        title = "all without " + " and ".join(gone)
        rows[f"without_{left}".lower()] = _semi(title, [name for name in ALL if name not in gone], "all")
    return rows


def with_starts(names: Sequence[str], rows: Mapping[str, Row]) -> list[str]:
    """The named rows and those they start from, in the order of the rows.

    Raises:
        ValueError: a name that is no row.
    """
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise ValueError(f"No row is called {', '.join(unknown)}; there are {', '.join(rows)}.")
    wanted = {*names, *(rows[name].run.start for name in names)}
    return [name for name in rows if name in wanted]


Task = tuple[int, str]  # seed and name of a row


def run_grid(
    tasks: Mapping[Task, Task | None], execute: Callable[[Task], dict[str, float]], pool: Executor, jobs: int
) -> dict[Task, dict[str, Any]]:
    """Execute tasks, several at a time, each after the one it starts from; a failure stops nobody else.

    Args:
        tasks: of each the one it starts from, which is a task too, or None; those that come first start first.
        execute: makes a training and returns its figures.
        pool: executes them.
        jobs: tasks at a time.

    Returns:
        of each its figures, or {"failed": reason}.
    """
    results: dict[Task, dict[str, Any]] = {}
    running: dict[Future, Task] = {}
    waiting = list(tasks)
    while waiting or running:
        for task in list(waiting):
            start = tasks[task]
            if start in results and "failed" in results[start]:
                results[task] = {"failed": f"'{start[1]}', which it starts from, is not there"}
                waiting.remove(task)
            elif (start is None or start in results) and len(running) < jobs:
                running[pool.submit(execute, task)] = task
                waiting.remove(task)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            results[running.pop(future)] = _outcome(future)
    return {task: results[task] for task in tasks}


def _outcome(future: Future) -> dict[str, Any]:
    try:
        return future.result()
    except subprocess.TimeoutExpired:
        return {"failed": "the time of this sitting was up; the next one goes on"}
    except (RuntimeError, ValueError, OSError) as error:
        return {"failed": str(error)}


@dataclass(frozen=True)
class Ablation:
    """The trainings of an ablation on one data set and fraction, in folders `seed<seed>/<row>` of `output`.

    What is finished is not run again, what was cut off goes on from its last checkpoint. Of a finished training the
    checkpoints are deleted, but for the last one where others start from it.

    Attributes:
        prefix: of the configurations under configs/quick, for example "shapes".
        data: of each seed its sets.
        output: folder.
        options: KEY VALUE pairs for every training, last.
        rows: all rows of the table.
    """

    prefix: str
    data: Mapping[int, Data]
    output: Path
    options: Sequence[str] = ()
    rows: Mapping[str, Row] = field(default_factory=grid)

    @property
    def seeds(self) -> list[int]:
        """Those of `data` and of the folders of earlier sittings, in order."""
        there = {int(path.name[4:]) for path in self.output.glob("seed*") if path.name[4:].isdigit()}
        return sorted({*self.data, *there})

    def run(self, names: Sequence[str] = (), jobs: int = 2, minutes: float | None = None) -> list[dict[str, Any]]:
        """Run rows over the seeds, one thread a training.

        Args:
            names: rows to run, with those they start from; empty: all. The others are told as they were left.
            jobs: trainings at a time.
            minutes: after them what still runs is stopped and nothing else is begun; None: until all are done.

        Returns:
            as `report`.
        """
        end = None if minutes is None else time.monotonic() + 60 * minutes
        wanted = with_starts(names or list(self.rows), self.rows)
        first = [(seed, name) for name in wanted if not self.rows[name].run.start for seed in self.data]
        later = [(seed, name) for seed in self.data for name in wanted if self.rows[name].run.start]
        tasks = dict.fromkeys(first)
        tasks.update({(seed, name): (seed, self.rows[name].run.start) for seed, name in later})
        with ThreadPoolExecutor(max_workers=jobs) as pool, Children() as children:
            results = run_grid(tasks, partial(self._train, end=end, children=children), pool, jobs)
        return self.report(results)

    def report(self, results: Mapping[Task, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """All rows with the figures of all `seeds`.

        Args:
            results: of this sitting; None: what is on the disk.

        Returns:
            of each row `name`, `title`, `against` and `seeds`: by seed (as text) the figures or {"failed": reason}.
        """
        return [self._entry(name, results or {}) for name in self.rows]

    def _train(self, task: Task, end: float | None, children: Children) -> dict[str, float]:
        seed, name = task
        folder, runs = self._folder(task), {key: row.run for key, row in self.rows.items()}
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0 and not (folder / RESULT).is_file():
            raise RuntimeError("not begun in the time of this sitting")
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = command_of(name, self.prefix, self.data[seed], folder.parent, seed, self.options, runs)
        figures = train(command, folder, 1, children, left)
        _prune(folder, keep_last=any(run.start == name for run in runs.values()))
        return figures

    def _entry(self, name: str, results: Mapping[Task, dict[str, Any]]) -> dict[str, Any]:
        seeds = {str(seed): results.get((seed, name)) or self._left((seed, name)) for seed in self.seeds}
        return {"name": name, "title": self.rows[name].run.title, "against": self.rows[name].against, "seeds": seeds}

    def _left(self, task: Task) -> dict[str, Any]:
        """What an earlier sitting left of a row that this one does not run."""
        result = self._folder(task) / RESULT
        return json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {"failed": "not run"}

    def _folder(self, task: Task) -> Path:
        return self.output / f"seed{task[0]}" / task[1]


def _prune(folder: Path, keep_last: bool) -> None:
    """Delete the checkpoints of a finished training."""
    for path in folder.glob("*.pth"):
        if not (keep_last and path.name == "model_final.pth"):
            path.unlink()
