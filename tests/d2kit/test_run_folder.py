"""A training's folder: one training at a time, damaged files passed over, earlier results set aside."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from detectron2.config import get_cfg

from d2kit import run_folder
from d2kit.files import damage
from d2kit.run_folder import (
    can_resume,
    checkpoint_to_resume,
    checkpoint_to_use,
    hold_folder,
    read_note,
    require_same_training,
    set_aside,
    training_keys,
)

HOLD = """
import sys, time
from d2kit.run_folder import hold_folder
with hold_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def checkpoint(folder, name, value=0.0):
    torch.save({"model": {"weight": torch.full((100,), value)}}, folder / name)
    return folder / name


def flip(path):
    """Change one bit of the weights in a checkpoint."""
    content = bytearray(path.read_bytes())
    place = content.find(torch.full((100,), 1.0).numpy().tobytes()) + 50
    content[place] ^= 4
    path.write_bytes(content)


def test_a_second_training_is_refused_until_the_first_is_killed(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.2)
    with pytest.raises(BlockingIOError, match=rf"{tmp_path}' is held .*: process {holder.pid}, which began 20"):
        with hold_folder(tmp_path):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold_folder(tmp_path):
        assert str(holder.pid) not in (tmp_path / ".lock").read_text()


def test_a_folder_is_free_after_its_training(tmp_path):
    for _ in range(2):
        with hold_folder(tmp_path / "new"):
            pass


def test_what_a_killed_training_left_is_cleaned(tmp_path, caplog):
    (tmp_path / "inner").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".lock").touch()  # That folder is of another training, which may be writing.
    for place in (tmp_path, tmp_path / "inner", tmp_path / "other"):
        (place / ".model_final.pth.abc.tmp").write_bytes(b"half")
    (tmp_path / "metrics.json").write_text('{"iteration": 19}\n{"iterat')
    (tmp_path / "metrics.csv").write_text("iteration,name,value\n19,lo")
    with hold_folder(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            ".lock",
            "inner",
            "metrics.csv",
            "metrics.json",
            "other",
        ]
    assert [path.parent.name for path in tmp_path.rglob("*.tmp")] == ["other"]
    assert (tmp_path / "metrics.json").read_text() == '{"iteration": 19}\n{"iterat\n'
    assert (tmp_path / "metrics.csv").read_text() == "iteration,name,value\n19,lo\n"
    assert "metrics.json' is cut off" in caplog.text


def test_whole_files_are_left_alone(tmp_path, caplog):
    (tmp_path / "metrics.json").write_text('{"iteration": 19}\n')
    with hold_folder(tmp_path):
        assert (tmp_path / "metrics.json").read_text() == '{"iteration": 19}\n'
    assert caplog.text == ""


@pytest.mark.parametrize(
    "content", ["", '{"metric": 1.0, "iterat', "[1]", "\ufeff\x00", "{}", '{"metric": "a"}', '{"metric": NaN}']
)
def test_a_damaged_note_is_named_and_passed_over(tmp_path, caplog, content):
    path = tmp_path / "model_best.json"
    assert read_note(path, "metric") == {} and caplog.text == ""
    path.write_text(content)
    assert read_note(path, "metric") == {}
    assert f"'{path}' is damaged" in caplog.text
    path.write_text('{"metric": 1.5}')
    assert read_note(path, "metric") == {"metric": 1.5}


def test_damage_of_a_checkpoint(tmp_path):
    path = checkpoint(tmp_path, "a.pth", 1.0)
    assert damage(path) == ""
    content = path.read_bytes()
    flip(path)
    assert "check sum of its part 'a/data/0' is wrong" in damage(path)
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert damage(path), length
    torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)
    assert damage(path) == ""


def test_the_newest_whole_checkpoint_is_resumed(tmp_path, caplog):
    assert not can_resume(tmp_path)
    first, second, last = (checkpoint(tmp_path, f"model_000000{n}.pth", 1.0) for n in (1, 3, 5))
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    assert can_resume(tmp_path) and checkpoint_to_resume(tmp_path) == last and caplog.text == ""
    flip(last)
    assert checkpoint_to_resume(tmp_path) == second and f"'{last}' is passed over: the check sum" in caplog.text
    last.unlink()
    second.write_bytes(b"")
    assert checkpoint_to_resume(tmp_path) == first and f"'{last}' is passed over: it is missing" in caplog.text
    (tmp_path / "last_checkpoint").write_text("x" * 5000)
    assert checkpoint_to_resume(tmp_path) == first
    flip(first)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint_to_resume(tmp_path)


@pytest.mark.parametrize("name", ["model_0000003.pth", "model_final.pth"])
def test_a_first_checkpoint_that_a_kill_left_untagged_is_resumed(tmp_path, caplog, name):
    only = checkpoint(tmp_path, name)
    assert can_resume(tmp_path) and checkpoint_to_resume(tmp_path) == only
    assert f"'{tmp_path}' has no file last_checkpoint" in caplog.text


@pytest.mark.parametrize("other", ["model_0000001.pth", "model_final.pth"])
def test_checkpoints_without_the_file_that_names_one_are_not_overwritten(tmp_path, other):
    checkpoint(tmp_path, other)
    checkpoint(tmp_path, "model_0000003.pth")
    with pytest.raises(ValueError, match=r"'model_0000003\.pth', but no file last_checkpoint"):
        can_resume(tmp_path)


def test_earlier_results_are_set_aside_whole(tmp_path):
    set_aside(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for number in (1, 2):
        for name in ("model_0000003.pth", "model_best.pth", "model_final.pth"):
            checkpoint(tmp_path, name, number)
        (tmp_path / "test").mkdir(exist_ok=True)
        for name in ("last_checkpoint", "model_best.json", "test/results.json", "metrics.json"):
            (tmp_path / name).write_text(json.dumps(number))
        set_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier_1", "earlier_2", "metrics.json", "test"]
    assert list((tmp_path / "test").iterdir()) == []
    for number in (1, 2):
        folder = tmp_path / f"earlier_{number}"
        assert json.loads((folder / "test" / "results.json").read_text()) == number
        assert torch.load(folder / "model_best.pth", weights_only=True)["model"]["weight"][0] == number


def test_a_resume_with_another_configuration_names_the_keys():
    before, now = get_cfg(), get_cfg()
    now.OUTPUT_DIR, now.TEST.EVAL_PERIOD, now.SOLVER.MAX_ITER = "elsewhere", 7, before.SOLVER.MAX_ITER + 1
    require_same_training(training_keys(before), now)
    now.MODEL.ROI_HEADS.NUM_CLASSES, now.SEED, now.SOLVER.MAX_ITER = 3, 5, 10
    with pytest.raises(ValueError) as error:
        require_same_training(training_keys(before), now)
    assert (
        "MODEL.ROI_HEADS.NUM_CLASSES (was 80, is 3), SEED (was -1, is 5), SOLVER.MAX_ITER (was 40000, is 10): "
        in str(error.value)
    )
    assert "--allow-changed" in str(error.value)


def test_keys_that_one_version_does_not_know_are_no_difference():
    cfg = get_cfg()
    require_same_training({"OLD": 1, "SEED": -1}, cfg)


def test_the_lock_is_soon_free_after_a_kill(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    began = time.monotonic()
    with hold_folder(tmp_path):
        assert time.monotonic() - began < run_folder.PATIENCE


def test_the_best_checkpoint_answers_and_else_the_newest_whole_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint_to_use(tmp_path)
    older, newer = (checkpoint(tmp_path, f"model_{number:07}.pth", 1.0) for number in (4, 9))
    (tmp_path / "last_checkpoint").write_text(newer.name)
    assert checkpoint_to_use(tmp_path) == newer
    flip(newer)
    assert checkpoint_to_use(tmp_path) == older
    best = checkpoint(tmp_path, "model_best.pth")
    assert checkpoint_to_use(tmp_path) == best
