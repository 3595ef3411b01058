"""A stand-in for tools/train_net.py, and processes to look after."""

import os
import time

import pytest

from experiments import grid

# Four iterations, each kept in a checkpoint, then all files that a finished training leaves. A file `die` or `wait` in
# the folder of the training lets it die, or wait for a minute, in the third iteration; the file goes.
TRAINING = """
import argparse, json, os, pathlib, signal, time
parser = argparse.ArgumentParser()
parser.add_argument("--resume", action="store_true", required=True)
parser.add_argument("--config-file", required=True)
parser.add_argument("--overlay", action="append")
parser.add_argument("opts", nargs=argparse.REMAINDER)
opts = parser.parse_args().opts
options = dict(zip(opts[::2], opts[1::2], strict=True))
folder = pathlib.Path(options["OUTPUT_DIR"])
for part in ("test", "student/inference"):
    (folder / part).mkdir(parents=True, exist_ok=True)
start = options.get("S4M.TEACHER.WEIGHTS") or options.get("MODEL.WEIGHTS")
assert not start or pathlib.Path(start).is_file(), start
state = folder / "model_0001.pth"
done = int(state.read_text()) if state.is_file() else 0
for iteration in range(done, 4):
    for mark in ("die", "wait"):
        if iteration == 2 and (folder / mark).is_file():
            (folder / mark).unlink()
            (folder / "pid").write_text(f"{os.getpid()} ")
            os.kill(os.getpid(), signal.SIGKILL) if mark == "die" else time.sleep(60)
    with open(folder / "iterations", "a") as file:
        print(iteration, file=file)
    state.write_text(str(iteration + 1))
(folder / "model_final.pth").write_text("final")
line = {"iteration": 4, "student/segm/AP": len(folder.name), "student/bbox/AP": float(options["SEED"])}
(folder / "metrics.json").write_text(json.dumps(line))
(folder / "student" / "inference" / "coco_instances_results.json").write_text("[]")
(folder / "config.yaml").write_text(json.dumps({"ISTD": {"SCHEDULE": {"EPOCHS": 2}}}))
(folder / "model_best.json").write_text(json.dumps({"metric": float(options.get("ISTD.SCAM.SCALE", 1))}))
result = {"sirst:data:test.txt/istd/IoU": float(options["SEED"])}
(folder / "test" / "results.json").write_text(json.dumps({"results": result}))
"""


@pytest.fixture
def fake_training(tmp_path, monkeypatch):
    """The path of the stand-in, which grids of this process run."""
    path = tmp_path / "fake_train_net.py"
    path.write_text(TRAINING)
    monkeypatch.setattr(grid, "TRAIN_NET", path)
    return path


def wait_for_number(path):
    """The number in a file, as soon as it is there."""
    end = time.monotonic() + 60
    while not (path.is_file() and path.read_text().endswith((" ", "\n"))):
        assert time.monotonic() < end, path
        time.sleep(0.02)
    return int(path.read_text())


def is_alive(pid):
    """Whether a process with this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def processes():
    """Functions `wait_for_number` and `is_alive`."""
    return wait_for_number, is_alive
