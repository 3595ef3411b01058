"""The command in processes of its own: killed at a random point, and its messages."""

import random
import time

import pytest

from d2kit.commands import run_command
from s4m.commands import export_labels, label


def test_a_killed_process_goes_on_to_the_same_bits(labeled, stage_1, images, run_python, tmp_path):
    arguments = ["-m", "s4m", "label", "--run", stage_1, "--images", images, "--output", tmp_path / "labels"]
    lines = tmp_path / "labels" / "labels.jsonl"
    process = run_python(*arguments, log=tmp_path / "first.log", wait=False)
    end = time.monotonic() + 200
    wanted = random.randrange(1, 5)
    while time.monotonic() < end and process.poll() is None:
        if lines.is_file() and lines.read_bytes().count(b"\n") >= 1 + wanted:
            break
        time.sleep(0.002)
    time.sleep(random.random() * 0.05)
    process.kill()
    process.wait()
    assert lines.is_file() or (tmp_path / "labels" / "labels.json").is_file(), (tmp_path / "first.log").read_text()
    again = run_python(*arguments, log=tmp_path / "second.log", wait=False)
    assert again.wait(timeout=200) == 1  # One image cannot be read.
    assert (tmp_path / "labels" / "labels.json").read_bytes() == labeled.bytes
    log = (tmp_path / "second.log").read_text()
    assert "left out broken.png: " in log and "Traceback" not in log
    assert f"checkpoint: {stage_1 / 'model_final.pth'}" in log
    assert "labeled by the stage 1 network; the confidence is fitted to" in log


def test_exports_of_labels(labeled, images, tmp_path):
    for name, file in (("yolo", "data.yaml"), ("labelstudio", "tasks.json")):
        arguments = [labeled.path, "--images", images, "--format", name, "--output", tmp_path / name]
        assert run_command(export_labels, list(map(str, arguments))) == 0
        assert (tmp_path / name / file).is_file()
    assert (tmp_path / "yolo" / "labels" / "deep" / "a b.txt").is_file()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_wrong_shard_is_refused(shard, capsys):
    with pytest.raises(SystemExit):
        run_command(label, ["--run", "r", "--images", "i", "--output", "o", "--shard", shard])
    assert f"--shard must be I/N with 1 <= I <= N, not '{shard}'" in capsys.readouterr().err
