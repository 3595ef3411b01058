"""Kill trainings at random events, resume them, and count what is lost: `make soak`.

Each trial kills a training of S4M or ISTD once, twice or three times at random events of `fault_training.Events`, or
after a random time, and resumes it. It is survived if the last resumption leaves what the uninterrupted training left.
"""

import argparse
import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from fault_comparison import differences
from fault_training import Trainings

BY_TIME = 0.3  # share of the kills that come after a random time


def main() -> int:
    """Return the exit status: 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="number of trainings that are killed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the events and times")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further trial after this time")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory(prefix="soak_") as folder, ThreadPoolExecutor(args.jobs) as pool:
        subjects = list(pool.map(lambda package: Subject(package, Path(folder, package)), ("s4m", "istd")))
        random = Random(args.seed)
        trials = [(subjects[number % 2], f"{number:03d}", random.random()) for number in range(args.trials)]
        results = pool.map(lambda trial: time.monotonic() < end and trial[0].survives(*trial[1:]), trials)
        outcomes = [outcome for outcome in results if outcome is not False]
    kills = sum(number for number, _ in outcomes)
    lost = sum(bool(lines) for _, lines in outcomes)
    print(f"{len(outcomes)} trainings, {kills} kills: {len(outcomes) - lost} survived, {lost} lost.")
    return int(lost > 0)


class Subject:
    """One of the trainings, which has run once without a kill."""

    def __init__(self, package: str, folder: Path):
        folder.mkdir()
        self._package = package
        self._trainings = Trainings(package, folder)
        start = time.monotonic()
        process = self._trainings.start("whole")
        process.join()
        if process.exitcode:
            raise RuntimeError(Path(folder, "whole.log").read_text(encoding="utf-8")[-3000:])
        self._seconds = time.monotonic() - start
        self._events = len(self._trainings.events_file("whole").read_text(encoding="utf-8").splitlines())

    def survives(self, name: str, seed: float) -> tuple[int, list[str]]:
        """Kill and resume a training, and return the number of kills and the differences that it has in the end."""
        random = Random(seed)
        kills = 0
        events = []
        wanted = random.choice([1, 1, 1, 2, 3])
        while kills < wanted:
            process, event = self._kill(name, kills > 0, random)
            if process.exitcode == -signal.SIGKILL:
                kills += 1
                events.append(event)
            elif kills:
                break  # The resumed training ended before the event.
            else:
                self._remove(name)  # It ended before its first kill, so it is tried again.
        process = self._trainings.start(name, resume=True)
        process.join()
        lines = [f"it ends with {process.exitcode}"] if process.exitcode else []
        lines += differences(self._trainings.folder / "whole", self._trainings.folder / name)
        print(f"{self._package} {name}: {', '.join(events)}: {'LOST: ' + '; '.join(lines) if lines else 'survived'}")
        if not lines:
            self._remove(name)
        return kills, lines

    def _remove(self, name: str) -> None:
        for place in (name, f"{name}_cache"):
            shutil.rmtree(self._trainings.folder / place, ignore_errors=True)

    def _kill(self, name: str, resume: bool, random: Random):
        if random.random() < BY_TIME:
            seconds = random.uniform(0, self._seconds)
            process = self._trainings.start(name, resume=resume)
            process.join(seconds)
            process.kill()
            process.join()
            return process, f"{seconds:.2f} s"
        process = self._trainings.start(name, resume=resume, kill_at=random.randrange(self._events))
        process.join()
        names = self._trainings.events_file(name).read_text(encoding="utf-8").splitlines()
        return process, names[-1] if names else "none"


if __name__ == "__main__":
    raise SystemExit(main())
