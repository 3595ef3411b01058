"""Children end with the tool that started them: real processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from d2kit.processes import Children

SLEEP = ["-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
TOOL = """
import pathlib, sys
from concurrent.futures import ThreadPoolExecutor
from d2kit.processes import Children, exit_on_sigterm
exit_on_sigterm()
folder = pathlib.Path(sys.argv[1])
command = ["-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
with ThreadPoolExecutor(2) as pool, Children() as children:
    futures = [pool.submit(children.run, command, folder / f"{name}.out", cwd=folder) for name in "ab"]
    [future.result() for future in futures]
"""


def pid_in(log):
    """The process number that a child wrote, as soon as it has."""
    end = time.monotonic() + 30
    while not (log.is_file() and log.read_text().strip()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(log.read_text())


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pid):
    end = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


def test_status_output_folder_and_threads(tmp_path):
    log, children = tmp_path / "log", Children()
    command = ["-c", "import os, sys; print(os.getcwd(), os.environ['OMP_NUM_THREADS']); sys.exit(3)"]
    assert [children.run(command, log, cwd=tmp_path, threads=2) for _ in range(2)] == [3, 3]
    assert log.read_text() == f"{tmp_path} 2\n" * 2


def test_killed_when_the_time_is_up(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        Children().run(SLEEP, tmp_path / "log", cwd=tmp_path, seconds=1)
    assert gone(pid_in(tmp_path / "log"))


def test_a_failing_block_stops_them_and_nothing_else_begins(tmp_path):
    codes = []
    with pytest.raises(KeyboardInterrupt), Children() as children:
        thread = threading.Thread(target=lambda: codes.append(children.run(SLEEP, tmp_path / "log", cwd=tmp_path)))
        thread.start()
        pid = pid_in(tmp_path / "log")
        raise KeyboardInterrupt
    thread.join(30)
    assert codes == [-signal.SIGTERM] and gone(pid)
    with pytest.raises(RuntimeError, match="stopped"):
        children.run(SLEEP, tmp_path / "other", cwd=tmp_path)
    assert not (tmp_path / "other").exists()


def test_an_ordinary_end_leaves_them_usable(tmp_path):
    with Children() as children:
        pass
    assert children.run(["-c", ""], tmp_path / "log", cwd=tmp_path) == 0


def test_a_terminated_tool_takes_its_trainings_with_it(tmp_path):
    tool = subprocess.Popen([sys.executable, "-c", TOOL, str(tmp_path)])
    pids = [pid_in(tmp_path / f"{name}.out") for name in "ab"]
    tool.terminate()
    assert tool.wait(30) == 128 + signal.SIGTERM and all(gone(pid) for pid in pids)
