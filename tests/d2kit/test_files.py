"""Atomic writes survive errors and kill -9; outside checkpoints are read safely."""

import os
import signal
import subprocess
import sys
import time
import zipfile

import cv2
import numpy as np
import pytest
import torch

from d2kit.files import append_text, atomic_write, inside, load_weights, require_tensors, whole_lines, write_png


def test_replaces_whole_file_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with atomic_write(path, "w") as file:
        file.write("one")
    with atomic_write(path, "w") as file:
        file.write("two")
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["file.txt"]


def test_error_inside_keeps_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        with atomic_write(path) as file:
            file.write(b"ne")
            raise KeyError("stop")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_full_disk_is_one_sentence_with_the_name(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=r"file' cannot be written: No space left on device"):
        with atomic_write(path):
            raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"old"


def test_text_that_is_not_utf_8_is_named_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"file' cannot be written: 'caf\\udce9.png,1' is not UTF-8"):
        with atomic_write(path, "w") as file:
            file.write("caf\udce9.png,1\n")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_names_that_stay_in_their_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "real")  # The folder itself may be a link.
    folder = tmp_path / "folder"
    for name in ("a.png", "new/a.png", "new/../a.png", "..a", "caf\udce9.png"):
        assert inside(folder, name) == folder / name
    (tmp_path / "real" / "ring").symlink_to("ring")
    for name in ("", ".", "..", "../a.png", "new/../../a.png", os.fspath(tmp_path / "a.png"), "../folder2/a"):
        with pytest.raises(ValueError, match="leads out of the folder '.*folder'"):
            inside(folder, name)
    with pytest.raises(ValueError, match=r"'a\\x00.png' cannot be the name of a file"):
        inside(folder, "a\0.png")


def test_kill_leaves_old_or_new(tmp_path):
    path = tmp_path / "file"
    code = (
        "import sys; from d2kit.files import atomic_write\n"
        "n = 0\n"
        "while True:\n"
        "    with atomic_write(sys.argv[1]) as f:\n"
        "        for _ in range(64): f.write(bytes([n % 251]) * 65536)\n"
        "    n += 1\n"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.13)
        process.send_signal(signal.SIGKILL)
        process.wait()
        data = path.read_bytes()
        assert len(data) == 64 * 65536 and len(set(data)) == 1


def test_load_weights_names_what_is_wrong(tmp_path):
    good, bad = tmp_path / "good.pth", tmp_path / "bad.pth"
    torch.save({"a": torch.ones(2)}, good)
    assert torch.equal(load_weights(good, "KEY")["a"], torch.ones(2))
    bad.write_bytes(good.read_bytes()[:100])
    with pytest.raises(ValueError, match="KEY: .*bad.pth"):
        load_weights(bad, "KEY")
    with pytest.raises(FileNotFoundError, match="KEY names .*none.pth.*published at https://x"):
        load_weights(tmp_path / "none.pth", "KEY", "https://x")


def test_load_weights_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth"):
        load_weights(tmp_path / "evil.pth", "KEY")
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_torch_would_read_otherwise_is_damaged(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(5_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"a\.pth' is damaged: its parts are larger than the file"):
        load_weights(path, "KEY")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0x10
            archive.writestr(entry, content)
    with pytest.raises(ValueError, match=r"a\.pth' is damaged: one of its parts is a folder"):
        load_weights(path, "KEY")


def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    for content in ([1], torch.ones(2), "text"):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"KEY: '.*a\.pth' is not a checkpoint .* no dictionary"):
            load_weights(path, "KEY")
    for state in (None, {1: torch.ones(2)}, {"a": [1.0]}):
        with pytest.raises(ValueError, match="^'a.pth' holds a value of the type"):
            require_tensors(state, "a.pth")
    with pytest.raises(ValueError, match="^'a.pth' holds no weights"):
        require_tensors({}, "a.pth")
    assert require_tensors({"a": torch.ones(2), "b": np.ones(2)}, "a.pth").keys() == {"a", "b"}


@pytest.mark.parametrize("shape, dtype", [((5, 7), np.uint8), ((5, 7, 3), np.uint8), ((5, 7), np.uint16)])
def test_a_picture_comes_back_as_it_was(tmp_path, shape, dtype):
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    write_png(tmp_path / "new" / "a.png", picture)
    assert np.array_equal(cv2.imread(str(tmp_path / "new/a.png"), cv2.IMREAD_UNCHANGED), picture)
    assert os.listdir(tmp_path / "new") == ["a.png"]


@pytest.mark.parametrize("picture", [np.zeros((0, 4), np.uint8), np.zeros((4, 4, 2), np.uint8)])
def test_what_is_no_picture_is_named_and_keeps_the_old_file(tmp_path, picture):
    write_png(tmp_path / "a.png", np.full((2, 2), 9, np.uint8))
    with pytest.raises(ValueError, match=r"a\.png: uint8 pixels of shape \([04], 4.*\) are no image"):
        write_png(tmp_path / "a.png", picture)
    assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).tolist() == [[9, 9], [9, 9]]


def test_a_cut_last_line_is_passed_over(tmp_path):
    path = tmp_path / "lines.jsonl"
    for text in ("one\n", "two \u2028 and \udcff\n", "thr"):
        append_text(path, text)
    assert list(whole_lines(path)) == ["one", "two \u2028 and \\udcff"]


def test_an_append_that_fails_names_the_file(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"'{tmp_path}' cannot be written"):
        append_text(tmp_path, "one\n")
