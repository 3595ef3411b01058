"""Children end with the block that started them: real processes."""

import os
import signal
import threading
import time

import pytest

from experiments import children as module
from experiments.children import Children

SLEEP = ["-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
STUBBORN = ["-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP[1]]


def all_ended(children, count):
    statuses = {}
    while len(statuses) < count:
        statuses |= children.ended()
        time.sleep(0.02)
    return statuses


def test_status_output_and_threads(tmp_path):
    command = ["-c", "import os, sys; print(os.environ['OMP_NUM_THREADS']); sys.exit(3)"]
    with Children() as children:
        for name in "ab":
            children.start(name, command, tmp_path / "log", threads=2)
            assert all_ended(children, 1) == {name: 3}
        assert children.ended() == {}
    assert (tmp_path / "log").read_text() == "2\n2\n"


@pytest.mark.parametrize("command", [SLEEP, STUBBORN])
def test_everything_ends_with_the_block_and_is_killed_if_need_be(command, tmp_path, processes, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 1.0)
    wait_for_number, is_alive = processes
    with pytest.raises(ValueError, match="any error"), Children() as children:
        children.start("a", command, tmp_path / "log")
        pid = wait_for_number(tmp_path / "log")
        raise ValueError("any error")
    assert not is_alive(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_block_at_the_next_look(number, tmp_path, processes):
    wait_for_number, is_alive = processes
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as error, Children() as children:
        children.start("a", SLEEP, tmp_path / "log")
        pid = wait_for_number(tmp_path / "log")
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        all_ended(children, 1)
    assert error.value.code == 128 + number and not is_alive(pid) and signal.getsignal(number) == before
