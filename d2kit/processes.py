"""Trainings in processes of their own that do not outlive the tool that started them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception would, so that what it started is stopped; main thread only."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class Children:
    """Python processes, started from any thread; `with Children()` stops those that run when its block fails.

    A KeyboardInterrupt, `exit_on_sigterm` and an error in the block are failures, an ordinary end is none.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        self._stopped = threading.Event()

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self.stop()

    def run(
        self, command: Sequence[str], log: Path, *, cwd: Path, threads: int = 1, seconds: float | None = None
    ) -> int:
        """Run the interpreter with these arguments until it ends.

        Args:
            command: arguments of the Python interpreter.
            log: file that its output is appended to.
            cwd: folder that it runs in.
            threads: OMP_NUM_THREADS.
            seconds: after them it is killed; None: it has all time.

        Returns:
            the exit status.

        Raises:
            RuntimeError: `stop` was called before.
            subprocess.TimeoutExpired: the time was up.
        """
        if self._stopped.is_set():
            raise RuntimeError("not begun, as everything was stopped")
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(threads)}
        own = {"cwd": cwd, "stderr": subprocess.STDOUT, "env": environment}
        with (
            open(log, "a", encoding="utf-8") as file,
            subprocess.Popen([sys.executable, *command], stdout=file, **own) as process,
        ):
            self._running.add(process)
            if self._stopped.is_set():
                process.terminate()
            try:
                return process.wait(seconds)
            except BaseException:
                process.kill()
                raise
            finally:
                self._running.discard(process)

    def stop(self) -> None:
        """Terminate what runs and begin nothing else."""
        self._stopped.set()
        for process in list(self._running):
            process.terminate()
