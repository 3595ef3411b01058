"""A training that is killed and resumed is the uninterrupted one, bit for bit."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("recorded_training.py")
GUARDS = ("BOUNDARY", "CALIBRATION", "MATCHING")  # calibration has a state of its own
STAGES = {"stage1": False, "stage2": True}


def lines(path):
    """Whole lines of the record, {iteration: losses}; the last of each iteration."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    entries = [json.loads(line) for line in text.split("\n")[:-1]]
    return {entry["iteration"]: entry for entry in entries}


def wait_for(condition, process, log):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.02)


def assert_equal(a, b, where=""):
    """The same, bit for bit, whatever it is."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}/{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.parametrize("config", STAGES)
def test_killed_and_resumed_equals_uninterrupted(config, small_options, run_python, tmp_path):
    options = small_options(
        semi=STAGES[config],
        SOLVER__MAX_ITER=8,
        SOLVER__STEPS=(6,),
        SOLVER__CHECKPOINT_PERIOD=4,
        TEST__EVAL_PERIOD=4,
        S4M__TEACHER__BURN_IN=3,
        S4M__TEACHER__EMA_DECAY=0.5,
        **({f"S4M__{name}__ENABLED": True for name in GUARDS} if STAGES[config] else {}),
    )

    def start(name, *flags, **environment):
        file = f"configs/quick/shapes_{config}.yaml"
        arguments = [SCRIPT, *flags, "--config-file", file, "OUTPUT_DIR", tmp_path / name, *options]
        environment["RECORD"] = str(tmp_path / f"{name}.jsonl")
        return run_python(*arguments, log=tmp_path / f"{name}.log", wait=False, **environment)

    whole, killed = start("whole"), start("broken", HALT="6")
    record = tmp_path / "broken.jsonl"
    wait_for(lambda: 5 in lines(record), killed, tmp_path / "broken.log")
    assert (tmp_path / "broken" / "last_checkpoint").read_text() == "model_0000003.pth"
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    before = lines(record)
    resumed = start("broken", "--resume")
    for name, process in (("broken", resumed), ("whole", whole)):
        assert process.wait(timeout=240) == 0, (tmp_path / f"{name}.log").read_text(encoding="utf-8")[-3000:]

    after, wanted = lines(record), lines(tmp_path / "whole.jsonl")
    assert list(before) == list(range(6)) and list(wanted) == list(range(8))
    for iteration in range(8):
        assert_equal(after[iteration], wanted[iteration], f"iteration {iteration}")
    for iteration in range(6):
        assert_equal(before[iteration], wanted[iteration], f"iteration {iteration} before the kill")
    found, expected = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("broken", "whole")
    )
    assert {"model", "trainer", "iteration"} <= expected.keys() and expected["iteration"] == 7
    assert expected["trainer"]["_trainer"]["optimizer"]["state"]
    assert expected["trainer"]["classes"] == ["circle", "square", "triangle", "hexagon", "ellipse"]
    assert expected["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 8
    assert not STAGES[config] or expected["model"]["calibration.steps"] > 0
    assert any(key.startswith("teacher.") for key in expected["model"]) == STAGES[config]
    assert_equal(found, expected)
