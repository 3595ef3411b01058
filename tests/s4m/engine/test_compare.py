"""The comparison's bookkeeping, with a stand-in for the training processes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from d2kit.processes import Children
from s4m.engine.compare import ROOT, RUNS, Data, command_of, compare, over_seeds

DATA = Data("coco:a.json:images", "coco:b.json:images", "coco:c.json:val")


@pytest.fixture
def processes(monkeypatch):
    """The runs that were started, in order; a run named in `failing` fails."""
    state = SimpleNamespace(started=[], failing=set())

    def run(_, command, log, **__):
        options = dict(zip(command[4::2], command[5::2], strict=True))
        folder = Path(options["OUTPUT_DIR"])
        state.started.append(folder.name)
        start = options.get("S4M.TEACHER.WEIGHTS") or options.get("MODEL.WEIGHTS")
        assert start is None or Path(start).parent.name in state.started
        if folder.name in state.failing:
            return 1
        folder.mkdir(exist_ok=True)
        line = {"iteration": 9, "student/segm/AP": len(folder.name), "student/bbox/AP": 1.0}
        (folder / "metrics.json").write_text(json.dumps(line) + "\n")
        return 0

    monkeypatch.setattr(Children, "run", run)
    return state


@pytest.mark.parametrize("run", RUNS)
def test_command_of_each_run(run, tmp_path):
    command = command_of(run, "shapes", DATA, tmp_path, 4, ["SOLVER.MAX_ITER", "3"])
    assert Path(ROOT, command[3]).is_file() and command[-2:] == ["SOLVER.MAX_ITER", "3"] and "--resume" in command
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options["SEED"] == "4" and options["DATASETS.TRAIN"] == "('coco:a.json:images',)"
    assert ("DATASETS.UNLABELED" in options) == RUNS[run].semi == ("S4M.TEACHER.WEIGHTS" in options)


def test_every_run_once_and_finished_ones_not_again(processes, tmp_path):
    found = compare("shapes", DATA, tmp_path, 0, jobs=1)
    assert sorted(processes.started) == sorted(RUNS) and len(found) == len(RUNS)
    assert found["S4M"]["student/segm/AP"] == 3 and found["S4M"]["seconds"] >= 0
    again = compare("shapes", DATA, tmp_path, 0)
    assert len(processes.started) == len(RUNS) and again == found


def test_failed_run_is_named_and_the_others_stay(processes, tmp_path):
    processes.failing = {"teacher"}
    with pytest.raises(RuntimeError, match="teacher' failed: the end of .*teacher.out"):
        compare("shapes", DATA, tmp_path, 0, jobs=1)
    assert (tmp_path / "supervised" / "result.json").is_file()
    assert not (tmp_path / "s4m" / "result.json").exists()


def test_seconds_of_all_sittings(processes, tmp_path):
    (tmp_path / "teacher.seconds").write_text("100.5")
    found = compare("shapes", DATA, tmp_path, 0, jobs=1)
    assert 100.5 <= found["S4M teacher (stage 1)"]["seconds"] < 130 and found["S4M"]["seconds"] < 30


def test_mean_and_spread_over_seeds():
    rows = [{"S4M": {"segm/AP": value}} for value in (10.0, 12.0, 14.0)]
    assert over_seeds(rows) == {"S4M": {"segm/AP": "12.0 ± 2.0"}}
    assert over_seeds(rows[:1]) == {"S4M": {"segm/AP": "10.0"}}
