"""Supervised baseline, mean teacher and S4M under one budget on one data set, each a process of tools/train_net.py."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from d2kit.files import atomic_write
from d2kit.processes import Children
from s4m.data.shapes import write_shapes
from s4m.data.splits import split_name, write_splits
from s4m.evaluation.report import final_metrics

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "quick"
RESULT = "result.json"  # in the folder of a finished training: its figures
# A network of minutes does not learn to tell outlines, so colour tells most of them apart; masks stay the difficulty.
SHAPES = {"classes": ("circle", "square", "triangle"), "tinted": 0.9}


@dataclass(frozen=True)
class Run:
    """One training of a comparison.

    Attributes:
        title: what the table calls it.
        config: end of the configuration's name, behind the data set's prefix.
        start: the run whose final weights it starts from, "" for none.
        semi: whether it sees the unlabelled images.
        options: KEY VALUE pairs of its own.
    """

    title: str
    config: str
    start: str = ""
    semi: bool = False
    options: tuple[str, ...] = ()


RUNS = {
    "supervised": Run("supervised", "supervised"),
    "teacher": Run("S4M teacher (stage 1)", "teacher"),
    "mean_teacher": Run("mean teacher", "mean_teacher", "supervised", semi=True),
    "s4m": Run("S4M", "student", "teacher", semi=True),
    "supervised_longer": Run("supervised, as many iterations", "supervised_longer", "supervised"),
}


@dataclass(frozen=True)
class Data:
    """Names by path (`coco:JSON:IMAGES`) of the labelled, unlabelled and test sets."""

    labeled: str
    unlabeled: str
    test: str


def split_data(train_json: Path, train_images: Path, test: str, percent: float, seed: int, output: Path) -> Data:
    """Make the labelled fraction and the unlabelled rest of a COCO json.

    Args:
        train_json, train_images: the training set.
        test: name of the test set.
        percent: share of the images that keep their labels.
        seed: of the split.
        output: folder for the two jsons.
    """
    write_splits(train_json, [percent], folds=1, seed=seed, output=output)

    def name(unlabeled: bool) -> str:
        return f"coco:{output / train_json.stem}_{split_name(percent, 0, unlabeled)}.json:{train_images}"

    return Data(name(False), name(True), test)


def shapes_data(folder: Path, percent: float, seed: int) -> Data:
    """Write 2,000 training and 100 test images of synthetic shapes, and split the former."""
    train = write_shapes(folder / "train", 2000, seed=seed, **SHAPES)
    test = write_shapes(folder / "val", 100, seed=seed + 1000, **SHAPES)
    name = f"coco:{test}:{folder / 'val' / 'images'}"
    return split_data(train, folder / "train" / "images", name, percent, seed, folder / "splits")


def command_of(
    run: str,
    prefix: str,
    data: Data,
    output: Path,
    seed: int,
    options: Sequence[str],
    runs: Mapping[str, Run] = RUNS,
) -> list[str]:
    """The arguments for the Python interpreter that make one training of `runs`."""
    spec = runs[run]
    pairs = ["OUTPUT_DIR", str(output / run), "SEED", str(seed)]
    pairs += ["DATASETS.TRAIN", f"('{data.labeled}',)", "DATASETS.TEST", f"('{data.test}',)"]
    if spec.semi:
        pairs += ["DATASETS.UNLABELED", f"('{data.unlabeled}',)"]
    if spec.start:
        key = "S4M.TEACHER.WEIGHTS" if spec.semi else "MODEL.WEIGHTS"
        pairs += [key, str(output / spec.start / "model_final.pth")]
    config = f"configs/quick/{prefix}_{spec.config}.yaml"
    return ["tools/train_net.py", "--resume", "--config-file", config, *pairs, *spec.options, *options]


def train(
    command: list[str], folder: Path, threads: int, children: Children, seconds: float | None = None
) -> dict[str, float]:
    """Make one training in a process of its own, unless it is finished already.

    Args:
        command: as of `command_of`.
        folder: of the training; the process writes to the file `FOLDER.out` beside it.
        threads: of the process.
        children: it is one of them.
        seconds: after them the process is killed; None: it has all time.

    Returns:
        `final_metrics` and `seconds` (of all sittings), which `result.json` in the folder keeps.

    Raises:
        RuntimeError: the training failed; its log is named. Or the children were stopped.
        subprocess.TimeoutExpired: the time was up; the next call goes on from the last checkpoint.
    """
    result = folder / RESULT
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    print(f"[{folder.name}] OMP_NUM_THREADS={threads} python {shlex.join(command)}", flush=True)
    began, spent, log = time.monotonic(), folder.with_suffix(".seconds"), folder.with_suffix(".out")
    before = float(spent.read_text(encoding="utf-8")) if spent.is_file() else 0.0
    try:
        status = children.run(command, log, cwd=ROOT, threads=threads, seconds=seconds)
    finally:
        took = before + time.monotonic() - began
        with atomic_write(spent, "w") as file:
            file.write(str(took))
    if status:
        raise RuntimeError(f"The training in '{folder}' failed: the end of '{log}' says why.")
    print(f"[{folder.name}] {took:.0f} s", flush=True)
    figures = {**final_metrics(folder), "seconds": took}
    with atomic_write(result, "w") as file:
        json.dump(figures, file)
    return figures


def _train_after(before: Future | None, *arguments) -> dict[str, float]:
    if before is not None:
        before.result()
    return train(*arguments)


def compare(
    prefix: str, data: Data, output: Path, seed: int, *, options: Sequence[str] = (), jobs: int = 2, threads: int = 2
) -> dict[str, dict[str, float]]:
    """Run all trainings of `RUNS`; finished ones (`result.json`) are not run again, interrupted ones go on.

    Args:
        prefix: of the configurations under configs/quick, for example "shapes".
        data: the sets.
        output: folder; each training has one of its own in it.
        seed: of every training.
        options: KEY VALUE pairs for every training.
        jobs: trainings at a time.
        threads: shared by them.

    Returns:
        for each title `final_metrics` and `seconds`.

    Raises:
        RuntimeError: a training failed; its log is named.
    """
    output.mkdir(parents=True, exist_ok=True)
    futures: dict[str, Future] = {}
    with ThreadPoolExecutor(max_workers=jobs) as pool, Children() as children:
        for run, spec in RUNS.items():
            command = command_of(run, prefix, data, output, seed, options)
            before = futures.get(spec.start)
            futures[run] = pool.submit(_train_after, before, command, output / run, max(1, threads // jobs), children)
        wait(futures.values())  # a failure stops nobody else
        return {RUNS[run].title: future.result() for run, future in futures.items()}


def over_seeds(seeds: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, str]]:
    """Mean and standard deviation over seeds of each figure, as text; the mean alone for one seed."""
    table = {}
    for title, row in seeds[0].items():
        cells = {}
        for key in row:
            values = [rows[title][key] for rows in seeds]
            cells[key] = f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
        table[title] = cells
    return table
