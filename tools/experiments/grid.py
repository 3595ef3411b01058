"""A grid of trainings, each a process of tools/train_net.py, runs several at a time, in as many sittings as needed."""

import argparse
import math
import os
import shlex
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2kit.files import damage
from experiments.children import Children
from experiments.record import add_sitting, claim_folder, configuration_digest, outcome
from experiments.table import Row, write_report

TRAIN_NET = Path(__file__).resolve().parents[1] / "train_net.py"
FINAL = "model_final.pth"
POLL = 0.05  # The processes are looked at after this many seconds.


@dataclass(frozen=True)
class Training:
    """A training of a grid, whatever its seed, and its row in tables."""

    name: str  # The name is that of its folder below the seed's.
    title: str
    files: tuple[str, ...]  # The configuration file and overlays are merged in this order.
    options: tuple[str, ...] = ()  # These KEY VALUE pairs are its own.
    start: str = ""  # It starts from the final weights of the training of this name.
    start_key: str = "MODEL.WEIGHTS"  # This configuration key gets the path of these weights.
    against: str = ""  # Tables compare it with the training of this name.


Task = tuple[Training, int]  # A task is a training and a seed.


@dataclass
class Grid:
    """Runs trainings over seeds and remembers in their folders, `output/seed<seed>/<name>`, what is done.

    A finished training is not run again, an interrupted one goes on from its last checkpoint, and a failure stops only
    those that start from the training that failed. Each process writes to the file `<folder>.out`.
    """

    output: Path
    trainings: Sequence[Training]  # They start in this order unless one waits for another.
    seeds: Sequence[int]
    # This gives the figures in the folder of a training, or raises OSError, ValueError or KeyError.
    read_figures: Callable[[Path], dict[str, float]]
    # This gives the KEY VALUE pairs of the data sets.
    data: Callable[[Training, int], Sequence[str]] = lambda training, seed: ()
    options: Sequence[str] = ()  # These KEY VALUE pairs come last in every training.
    keep_checkpoints: bool = True  # Otherwise only those stay that other trainings start from.
    _failed: dict[Path, str] = field(default_factory=dict, init=False)  # The reasons of failures by folder.
    _began: dict[Path, float] = field(default_factory=dict, init=False)  # The time.monotonic() of what runs.

    def digests(self) -> dict[str, str]:
        """Return a digest of each training's configuration without its seed, its data and its paths."""
        keys = {row.name: configuration_digest(row.files, [*row.options, *self.options]) for row in self.trainings}
        return {f"configuration of {name}": digest for name, digest in keys.items()}

    def command(self, training: Training, seed: int) -> list[str]:
        """Return the arguments of the Python interpreter that make a training."""
        folder = self.output / f"seed{seed}"
        command = [str(TRAIN_NET), "--resume", "--config-file", training.files[0]]
        for overlay in training.files[1:]:
            command += ["--overlay", overlay]
        command += ["OUTPUT_DIR", str(folder / training.name), "SEED", str(seed), *self.data(training, seed)]
        if training.start:
            command += [training.start_key, str(folder / training.start / FINAL)]
        return [*command, *training.options, *self.options]

    def rows(self) -> list[Row]:
        """Return a row for every training, with the seeds of earlier sittings."""
        earlier = {int(path.name[4:]) for path in self.output.glob("seed*") if path.name[4:].isdigit()}
        folders = {str(seed): self.output / f"seed{seed}" for seed in sorted(earlier.union(self.seeds))}
        rows = []
        for training in self.trainings:
            outcomes = {seed: self._outcome(folder / training.name) for seed, folder in folders.items()}
            rows.append(Row(training.name, training.title, outcomes, training.against))
        return rows

    def run(self, args: argparse.Namespace, report: Callable[[], None], names: Collection[str] = ()) -> None:
        """Run what is not finished of the named trainings (or of all) and of those that they start from.

        The arguments of a `grid_parser` say how many trainings run at a time, with how many threads each, and after
        how many minutes what runs is stopped. `report` is called after each training and in the end, whatever ends the
        sitting.

        Raises:
            SystemExit: a signal ended the sitting, or trainings failed, which are named.
        """
        end = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
        wanted = {*names, *(training.start for training in self.trainings if training.name in names)}
        chosen = [training for training in self.trainings if not names or training.name in wanted]
        tasks = {self.output / f"seed{seed}" / row.name: (row, seed) for seed in self.seeds for row in chosen}
        waiting = {folder: task for folder, task in tasks.items() if "failed" in self._outcome(folder)}
        self._failed.clear()
        try:
            with Children() as children:
                while (waiting or self._began) and time.monotonic() < end:
                    self._begin_what_can(waiting, children, args)
                    time.sleep(POLL)
                    statuses = children.ended()
                    for folder, status in statuses.items():
                        self._end(folder, status)
                    if statuses:
                        report()
        finally:
            for folder, began in self._began.items():
                add_sitting(folder, time.monotonic() - began)
            self._began.clear()
            report()
        if self._failed:
            failed = ", ".join(f"{path.name} of seed {path.parent.name.removeprefix('seed')}" for path in self._failed)
            raise SystemExit(f"{len(self._failed)} trainings failed: {failed}.")

    def _outcome(self, folder: Path) -> dict[str, Any]:
        return {"failed": self._failed[folder]} if folder in self._failed else outcome(folder)

    def _begin_what_can(self, waiting: dict[Path, Task], children: Children, args: argparse.Namespace) -> None:
        for folder, (training, seed) in list(waiting.items()):
            start = folder.parent / training.start
            if start in self._failed:
                self._failed[folder] = f"'{training.start}', which it starts from, is not there"
                del waiting[folder]
            elif start not in waiting and start not in self._began and len(self._began) < max(1, args.jobs):
                del waiting[folder]
                command = self.command(training, seed)
                folder.parent.mkdir(parents=True, exist_ok=True)
                print(f"[{folder.name}] OMP_NUM_THREADS={args.threads} python {shlex.join(command)}", flush=True)
                self._began[folder] = time.monotonic()
                children.start(folder, command, folder.with_name(f"{folder.name}.out"), args.threads)

    def _end(self, folder: Path, status: int) -> None:
        seconds = time.monotonic() - self._began.pop(folder)
        try:
            if status:
                raise ValueError(f"the end of '{folder}.out' says why")
            final = folder / FINAL
            if not final.is_file() or damage(final):
                raise ValueError(f"'{final}' is missing or damaged")
            figures = self.read_figures(folder)
        except (OSError, ValueError, KeyError) as error:
            add_sitting(folder, seconds)
            self._failed[folder] = str(error)
            print(f"[{folder.name}] failed: {error}", flush=True)
            return
        add_sitting(folder, seconds, figures)
        print(f"[{folder.name}] {seconds:.0f} s", flush=True)
        if not self.keep_checkpoints:
            is_start = any(training.start == folder.name for training in self.trainings)
            for path in folder.glob("*.pth"):
                if not (is_start and path.name == FINAL):
                    path.unlink()


def grid_parser(description: str, output: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options of every tool with a grid; `output` is the default of --output."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=lambda path: Path(path).resolve(), required=not output, default=output)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each training")
    parser.add_argument("--minutes", type=float, help="stop after them; the same command again goes on")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for every training, last")
    return parser


def run_grid(
    grid: Grid,
    args: argparse.Namespace,
    name: str,
    settings: Mapping[str, Any],
    tables: Callable[[Sequence[Row]], str],
    write_data: Callable[[], None],
    names: Collection[str] = (),
) -> None:
    """Run a grid in its folder, keep the report `NAME.md` and `NAME.json` up to date there, and print it in the end.

    `args` are of a `grid_parser`, and `names` are as in `Grid.run`. `settings` are what decides the figures besides the
    configurations, `tables` turns rows into the text of their tables, and `write_data` writes the data sets.

    Raises:
        SystemExit: as `claim_folder` and `Grid.run`.
    """
    began = time.monotonic()
    settings = {**settings, "options": " ".join(grid.options)}

    def report() -> None:
        rows = grid.rows()
        write_report(grid.output, name, settings, tables(rows), rows)

    with claim_folder(grid.output, {**settings, **grid.digests()}):
        write_data()
        try:
            grid.run(args, report, names)
        finally:
            print((grid.output / f"{name}.md").read_text(encoding="utf-8"))
            print(f"{time.monotonic() - began:.0f} s. TensorBoard: tensorboard --logdir {grid.output}", flush=True)
