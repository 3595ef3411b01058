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

from d2kit.array_pickle import load_array_pickle
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


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.arange(6, dtype=">i2").reshape(3, 2).T,
    np.asfortranarray(np.ones((2, 3))),
    np.array([True, False]),
    np.zeros((0, 4), np.uint8),
    np.array(3.5, np.float16),
]


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_of_numbers_come_back_from_a_pickle(tmp_path, protocol):
    content = {"model": dict(enumerate(ARRAYS)), "iteration": np.int64(7), "__author__": "zoo"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    again = load_array_pickle(tmp_path / "a.pkl", "KEY")
    assert again["iteration"] == 7 and again["__author__"] == "zoo"
    for number, array in enumerate(ARRAYS):
        np.testing.assert_array_equal(again["model"][number], array)
        assert again["model"][number].dtype == array.dtype.newbyteorder("=")


def forged(shape: tuple, code: str, content: bytes) -> bytes:
    """A pickle of an array whose state says what it likes, and whose first word is a pointer in an object array."""

    class Forged:
        def __reduce__(self):
            function, arguments, _ = np.zeros(1).__reduce__()
            return function, arguments, (1, shape, np.dtype(code), False, content)

    return pickle.dumps({"model": {"weight": Forged()}, "__author__": "x"}, 2)


@pytest.mark.parametrize(
    "content",
    [
        forged((1,), "O", b"A" * 8),
        forged((1,), "V8", b"A" * 8),
        forged((1,), "U2", b"A" * 8),
        forged((1,), "i4,f4", b"A" * 8),
        forged((1,), "M8[s]", b"A" * 8),
        forged((2**40,), "f4", b"A" * 8),
        forged((-1,), "f4", b"A" * 8),
        pickle.dumps({"model": {"weight": np.array([None, {}], object)}}, 2),
        pickle.dumps({"model": {"weight": np.zeros(2, "i4,f4")}}, 2),
        pickle.dumps({"model": {"weight": np.array(["a"])}}, 2),
        pickle.dumps([1]),
        b"\x80\x02" + b"]" + b"r\xff\xff\xff\xff" + b".",
    ],
)
def test_arrays_of_anything_but_plain_numbers_are_refused(tmp_path, content):
    (tmp_path / "forged.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"forged\.pkl' is not a safe pickle of arrays"):
        AtomicCheckpointer(nn.Linear(3, 2)).load(str(tmp_path / "forged.pkl"))


class Evil:
    """Makes a folder when it is loaded as code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("suffix", [".pth", ".pyth", ".pt", ".bin", ".pkl", ".safetensors", ""])
def test_no_ending_runs_code(tmp_path, suffix):
    path, ran = tmp_path / f"evil{suffix}", tmp_path / "ran"
    for legacy in (False, True):
        content = {"model": Evil(str(ran)), "model_state": Evil(str(ran))}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match=f"evil{suffix}'"):
            AtomicCheckpointer(nn.Linear(3, 2)).load(str(path))
    assert not ran.exists()


def test_files_of_pycls_and_safetensors_load(tmp_path):
    from safetensors.torch import save_file

    weights = {"weight": torch.full((2, 3), 7.0), "bias": torch.zeros(2)}
    torch.save({"model_state": weights}, tmp_path / "a.pyth")
    save_file(weights, tmp_path / "a.safetensors")
    for name in ("a.pyth", "a.safetensors"):
        model = nn.Linear(3, 2)
        AtomicCheckpointer(model).load(str(tmp_path / name))
        assert (model.weight == 7).all(), name
    torch.save(weights, tmp_path / "b.pyth")
    with pytest.raises(ValueError, match=r"b\.pyth' holds no 'model_state'"):
        AtomicCheckpointer(model).load(str(tmp_path / "b.pyth"))
    torch.save({"model": {"weight": "text"}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"c\.pth' holds a value of the type str as 'weight'"):
        AtomicCheckpointer(model).load(str(tmp_path / "c.pth"))


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


@pytest.mark.parametrize("name", ["empty.pkl", "empty.pth"])
def test_a_file_without_weights_is_named(tmp_path, name):
    write = torch.save if name.endswith(".pth") else lambda content, path: path.write_bytes(pickle.dumps(content))
    write({}, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}' holds no weights"):
        AtomicCheckpointer(torch.nn.Linear(2, 1)).load(str(tmp_path / name))
