"""Trainings run in processes of their own that do not outlive the tool that started them."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Hashable, Sequence
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # The constant is one of linux/prctl.h.
GRACE = 10.0  # A process is killed this many seconds after the request to end.


def _end_with_parent() -> None:
    """Let Linux end this process when its parent dies, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Children:
    """The processes that it starts end at the latest with the block `with Children() as children`, in the main thread.

    In the block SIGINT, SIGTERM and SIGHUP wait for the next call of `ended`, which raises SystemExit, so that no
    process is ever started and then forgotten. On Linux the processes also end when this one is killed.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, subprocess.Popen] = {}
        self._signal = 0

    def __enter__(self) -> "Children":
        self._handlers = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for process in self._running.values():
            process.terminate()
        end = time.monotonic() + GRACE
        for process in self._running.values():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _) -> None:
        self._signal = number

    def start(self, name: Hashable, command: Sequence[str], log: Path, threads: int = 1) -> None:
        """Start the Python interpreter with these arguments and number of threads; its output is added to the log."""
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(threads)}
        with open(log, "a", encoding="utf-8") as file:
            streams = {"stdout": file, "stderr": subprocess.STDOUT}
            self._running[name] = subprocess.Popen(
                [sys.executable, *command], **streams, env=environment, preexec_fn=_end_with_parent
            )

    def ended(self) -> dict[Hashable, int]:
        """Return the names and exit statuses of processes that ended since the last call.

        Raises:
            SystemExit: one of these signals came; the status is 128 plus its number, as in a shell.
        """
        if self._signal:
            raise SystemExit(128 + self._signal)
        statuses = {name: process.poll() for name, process in self._running.items()}
        statuses = {name: status for name, status in statuses.items() if status is not None}
        self._running = {name: process for name, process in self._running.items() if name not in statuses}
        return statuses
