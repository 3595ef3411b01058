"""Checkpoints are whole or absent, safe to read, and `--resume` never starts from the best one."""

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from d2kit.checkpoint import AtomicCheckpointer


def test_round_trip_and_tag(tmp_path):
    model = nn.Linear(3, 2)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000009", iteration=9)
    checkpointer.save("model_best", iteration=9)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    other = nn.Linear(3, 2)
    extra = AtomicCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    assert extra["iteration"] == 9 and torch.equal(model.weight, other.weight)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000009.pth", "model_best.pth"]


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    checkpointer = AtomicCheckpointer(nn.Linear(3, 2), str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()

    def fail(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="model_final.pth' cannot be written"):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half a file"])
def test_broken_checkpoint_is_named(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match="x.pth"):
        AtomicCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / "x.pth"))
    with pytest.raises(FileNotFoundError, match="y.pth"):
        AtomicCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / "y.pth"))


def test_zoo_pickle_loads_but_code_does_not(tmp_path):
    model = nn.Linear(3, 2)
    weights = {"weight": np.full((2, 3), 7, np.float32), "bias": np.zeros(2, np.float32)}
    with open(tmp_path / "zoo.pkl", "wb") as file:
        pickle.dump({"model": weights, "__author__": "zoo", "matching_heuristics": True}, file)
    AtomicCheckpointer(model).load(str(tmp_path / "zoo.pkl"))
    assert (model.weight == 7).all()

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    with open(tmp_path / "evil.pkl", "wb") as file:
        pickle.dump({"model": Evil()}, file)
    with pytest.raises(ValueError, match="evil.pkl.*mkdir"):
        AtomicCheckpointer(model).load(str(tmp_path / "evil.pkl"))
    assert not (tmp_path / "ran").exists()


def test_kill_while_saving_leaves_a_checkpoint_that_loads(tmp_path):
    code = (
        "import sys, torch; from d2kit.checkpoint import AtomicCheckpointer\n"
        "model = torch.nn.Linear(1000, 1000)\n"
        "c = AtomicCheckpointer(model, sys.argv[1])\n"
        "while True:\n"
        "    torch.nn.init.constant_(model.weight, float(torch.randint(9, (1,))))\n"
        "    c.save('model_final')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "last_checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.21)
    process.send_signal(signal.SIGKILL)
    process.wait()
    model = nn.Linear(1000, 1000)
    AtomicCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert len(model.weight.unique()) == 1
