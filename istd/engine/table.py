"""The method's table: networks x schemes x seeds, each a process of tools/train_net.py, several at a time."""

import json
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from d2kit.files import atomic_write
from d2kit.processes import Children
from istd.evaluation.table import RunResult, format_markdown, read_run, summarize

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("alclnet", "gglnet", "mlclnet", "mshnet", "repisdnet", "dnanet", "sctransnet", "acm", "alcnet")
SCHEMES = ("full", "lesps", "pal", "semantic_prior")
RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """One training of the table.

    Attributes:
        network, scheme: name the configuration configs/istd/<network>_<scheme>.yaml.
        seed: of the training.
        variant: what a sweep varies, "KEY=VALUE"; empty: nothing.
    """

    network: str
    scheme: str
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        """Its folder in the table's."""
        row = f"{self.network}_{self.scheme}" + (f"-{self.variant}" if self.variant else "")
        return f"{row}/seed{self.seed}"

    @property
    def options(self) -> list[str]:
        """KEY VALUE pairs of its own."""
        return ["SEED", str(self.seed), *(self.variant.split("=", 1) if self.variant else [])]


def plan(networks: Sequence[str], schemes: Sequence[str], seeds: Sequence[int], sweep: Sequence[str] = ()) -> list[Run]:
    """All runs of a table.

    Args:
        sweep: a configuration key and the values that it takes in turn; empty: no variants.

    Raises:
        ValueError: a sweep without values.
    """
    if len(sweep) == 1:
        raise ValueError(f"the sweep of {sweep[0]} names no value.")
    variants = [f"{sweep[0]}={value}" for value in sweep[1:]] if sweep else [""]
    return [Run(n, s, seed, v) for n, s, v, seed in product(networks, schemes, variants, seeds)]


def is_finished(folder: Path) -> bool:
    """Whether a training's test set is scored, which is the last thing that it does."""
    return (folder / "test" / "results.json").is_file()


class Table:
    """Runs trainings and keeps table.md and table.json up to date in its folder.

    A folder a row, in it one a seed with the training's files, `run.json` (its options and seconds) and the output of
    its process in `seed<k>.out`.
    """

    def __init__(self, output: Path, runs: Sequence[Run], options: Sequence[str] = (), threads: int = 1):
        """
        Args:
            output: folder of the table.
            runs: of `plan`.
            options: KEY VALUE pairs for every training; those of a run's own come after them.
            threads: OMP_NUM_THREADS of each training.
        """
        self.output, self.runs, self.options, self.threads = Path(output).resolve(), list(runs), list(options), threads
        self.failed: dict[str, str] = {}
        self._children = Children()

    def run(self, jobs: int = 1) -> dict[str, str]:
        """Train what is not finished, `jobs` at a time, then name what failed: run -> why.

        Interrupted trainings go on, finished ones stay as they are. The tables are written anew after every training.
        """
        self.write()
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            futures = {pool.submit(self._train, run): run for run in self.runs if not self._is_done(run)}
            try:
                for future in as_completed(futures):
                    if error := future.exception():
                        self.failed[futures[future].name] = str(error)
                        print(f"[{futures[future].name}] failed: {error}", flush=True)
                    self.write()
            except BaseException:
                self._children.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return self.failed

    def results(self) -> list[RunResult]:
        """The finished runs, in the order of the published table, whatever order they are trained in."""
        done = [run for run in self.runs if self._is_done(run)]
        done.sort(key=lambda run: (NETWORKS.index(run.network), SCHEMES.index(run.scheme)))
        return [
            read_run(
                self.output / run.name,
                scheme=run.scheme,
                variant=run.variant,
                seed=run.seed,
                seconds=self._record(run)["seconds"],
            )
            for run in done
        ]

    def write(self) -> None:
        """Write table.md and table.json of the runs that are finished."""
        found = self.results()
        rows = summarize(found)
        note = f"{len(found)} of {len(self.runs)} trainings are done. Options: `{' '.join(self.options) or 'none'}`."
        with atomic_write(self.output / "table.json", "w") as file:
            json.dump({"options": self.options, "rows": rows, "failed": self.failed}, file, indent=1)
        with atomic_write(self.output / "table.md", "w") as file:
            file.write(format_markdown(rows, note, self.failed))

    def _is_done(self, run: Run) -> bool:
        return is_finished(self.output / run.name) and self._record(run)["options"] == self._options_of(run)

    def _options_of(self, run: Run) -> list[str]:
        return [*self.options, *run.options]

    def _record(self, run: Run) -> dict:
        path = self.output / run.name / RECORD
        if not path.is_file():
            return {"options": self._options_of(run), "seconds": 0.0}
        return json.loads(path.read_text(encoding="utf-8"))

    def _keep(self, run: Run, seconds: float) -> None:
        with atomic_write(self.output / run.name / RECORD, "w") as file:
            json.dump({"options": self._options_of(run), "seconds": seconds}, file)

    def _train(self, run: Run) -> None:
        record = self._record(run)
        if record["options"] != self._options_of(run):
            raise RuntimeError(
                f"its folder holds a training with other options, {shlex.join(record['options'])}: choose another one."
            )
        self._keep(run, record["seconds"])
        folder, began = self.output / run.name, time.monotonic()
        config = f"configs/istd/{run.network}_{run.scheme}.yaml"
        command = ["tools/train_net.py", "--resume", "--config-file", config]
        command += [*self._options_of(run), "OUTPUT_DIR", str(folder)]
        print(f"[{run.name}] OMP_NUM_THREADS={self.threads} python {shlex.join(command)}", flush=True)
        code = self._children.run(command, folder.with_suffix(".out"), cwd=ROOT, threads=self.threads)
        seconds = time.monotonic() - began
        self._keep(run, record["seconds"] + seconds)
        if code or not is_finished(folder):
            raise RuntimeError(f"the end of {folder.with_suffix('.out')} says why.")
        print(f"[{run.name}] {seconds:.0f} s", flush=True)
