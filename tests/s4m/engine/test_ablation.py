"""The grid, its order, its failures and its resuming, with stand-ins for the training processes."""

import json
import runpy
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from detectron2.config import get_cfg

from s4m import add_s4m_config
from s4m.engine import ablation as ablation_module
from s4m.engine import arguments as arguments_module
from s4m.engine import compare
from s4m.engine.ablation import Ablation, Row, grid, run_grid, with_starts
from s4m.engine.compare import ROOT, Data, Run, command_of

DATA = Data("coco:a.json:images", "coco:b.json:images", "coco:c.json:val")
# Stands for tools/train_net.py: four iterations, each kept in a checkpoint; told so, it dies or waits in the second.
STUB = """
import json, os, pathlib, signal, sys, time
options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
folder = pathlib.Path(options["OUTPUT_DIR"])
folder.mkdir(exist_ok=True)
start = options.get("S4M.TEACHER.WEIGHTS") or options.get("MODEL.WEIGHTS")
assert start is None or pathlib.Path(start).is_file(), start
state = folder / "model_0001.pth"
done = int(state.read_text()) if state.is_file() else 0
with open(folder / "iterations", "a") as file:
    for iteration in range(done, 4):
        if iteration == 2 and (folder / "die").is_file():
            (folder / "die").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if iteration == 2 and (folder / "wait").is_file():
            (folder / "wait").unlink()
            time.sleep(60)
        print(iteration, file=file, flush=True)
        state.write_text(str(iteration + 1))
(folder / "model_final.pth").write_text("final")
line = {"iteration": 4, "student/segm/AP": len(folder.name), "seed": options["SEED"]}
(folder / "metrics.json").write_text(
    json.dumps({"iteration": 3, "pseudo_label_quality/before/precision": 0.5}) + chr(10) + json.dumps(line)
)
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train_net.py").write_text(STUB)
    monkeypatch.setattr(compare, "ROOT", tmp_path)


@pytest.fixture
def ablation(stub, tmp_path):
    """Three rows over two seeds: one from nothing, two that start from it."""
    rows = {
        "first": Row(Run("the first", "supervised")),
        "second": Row(Run("the second", "mean_teacher", "first", semi=True), "first"),
        "third": Row(Run("the third", "mean_teacher", "first", semi=True), "second"),
    }
    return Ablation("shapes", {1: DATA, 2: DATA}, tmp_path / "out", ["SOLVER.MAX_ITER", "4"], rows)


def iterations(ablation, seed, name):
    return (ablation.output / f"seed{seed}" / name / "iterations").read_text().split()


def marked(ablation, seed, name, mark):
    folder = ablation.output / f"seed{seed}" / name
    folder.mkdir(parents=True)
    (folder / mark).touch()


EVERYTHING = {"SD", "PR", "ARP", "boundary", "calibration", "matching"}
SWITCHED_ON = {
    "supervised": set(),
    "teacher": {"SD"},
    "supervised_longer": set(),
    "mean_teacher": set(),
    "plus_sd": {"SD"},
    "plus_pr": {"PR"},
    "plus_arp": {"ARP"},
    "plus_boundary": {"PR", "boundary"},
    "plus_calibration": {"PR", "calibration"},
    "plus_matching": {"PR", "matching"},
    "published": {"SD", "PR", "ARP"},
    "all": EVERYTHING,
    "without_sd": EVERYTHING - {"SD"},
    "without_pr": EVERYTHING - {"PR", "matching"},
    "without_arp": EVERYTHING - {"ARP"},
    "without_boundary": EVERYTHING - {"boundary"},
    "without_calibration": EVERYTHING - {"calibration"},
    "without_matching": EVERYTHING - {"matching"},
}


@pytest.mark.parametrize(("name", "expected"), SWITCHED_ON.items())
def test_switches_of_each_row(name, expected, tmp_path):
    runs = {key: row.run for key, row in grid().items()}
    command = command_of(name, "shapes", DATA, tmp_path, 4, ["SOLVER.MAX_ITER", "3"], runs)
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.merge_from_file(str(ROOT / command[3]))
    cfg.merge_from_list(command[4:])
    of_stage_2 = EVERYTHING - {"SD"} if cfg.DATASETS.UNLABELED else ()  # else they wait
    on = {switch for switch in of_stage_2 if cfg.S4M[switch.upper()].ENABLED}
    if cfg.S4M.SD.ENABLED or cfg.S4M.TEACHER.WEIGHTS.endswith("/teacher/model_final.pth"):
        on.add("SD")
    assert on == expected and cfg.SOLVER.MAX_ITER == 3


def test_rows_differ_from_what_they_are_held_against():
    rows = grid()
    assert list(rows) == list(SWITCHED_ON) and all(row.against in {"", *rows} for row in rows.values())
    assert all(row.run.start in {"", *rows} for row in rows.values())
    assert len({(row.run.config, row.run.start, row.run.options) for row in rows.values()}) == len(rows)
    assert with_starts(["all", "plus_arp"], rows) == ["supervised", "teacher", "plus_arp", "all"]
    with pytest.raises(ValueError, match="No row is called everything"):
        with_starts(["everything"], rows)


def test_rows_wait_for_their_start_and_run_side_by_side():
    running, most, order = set(), [], []

    def execute(task):
        running.add(task)
        most.append(len(running))
        time.sleep(0.05)
        running.remove(task)
        order.append(task)
        if task == (2, "a"):
            raise RuntimeError("it broke")
        return {"x": task[0]}

    tasks = {(1, "b"): (1, "a"), (1, "a"): None, (2, "a"): None, (2, "b"): (2, "a"), (3, "a"): None}
    with ThreadPoolExecutor(2) as pool:
        results = run_grid(tasks, execute, pool, 2)
    assert list(results) == list(tasks) and max(most) == 2
    assert results[1, "b"] == {"x": 1} and order.index((1, "a")) < order.index((1, "b"))
    assert results[2, "a"] == {"failed": "it broke"} and "'a'" in results[2, "b"]["failed"]
    assert (2, "b") not in order


def test_every_row_once_and_only_what_others_need_stays(ablation):
    rows = ablation.run(jobs=3)
    assert [row["name"] for row in rows] == ["first", "second", "third"]
    found = rows[1]["seeds"]["2"]
    assert (found["student/segm/AP"], found["pseudo_label_quality/before/precision"]) == (6, 0.5)
    kept = sorted(path.relative_to(ablation.output).as_posix() for path in ablation.output.rglob("*.pth"))
    assert kept == ["seed1/first/model_final.pth", "seed2/first/model_final.pth"]
    again = ablation.run(jobs=1)
    assert again == rows and iterations(ablation, 2, "third") == ["0", "1", "2", "3"]


def test_a_killed_training_is_told_and_goes_on_where_it_was(ablation):
    marked(ablation, 1, "first", "die")
    rows = ablation.run(jobs=2)
    assert "failed: the end of" in rows[0]["seeds"]["1"]["failed"] and "first.out" in rows[0]["seeds"]["1"]["failed"]
    assert "'first'" in rows[2]["seeds"]["1"]["failed"]
    assert all("seconds" in row["seeds"]["2"] for row in rows)
    assert iterations(ablation, 1, "first") == ["0", "1"]
    again = ablation.run(jobs=2)
    assert not any("failed" in figures for row in again for figures in row["seeds"].values())
    assert iterations(ablation, 1, "first") == ["0", "1", "2", "3"]
    assert iterations(ablation, 2, "first") == ["0", "1", "2", "3"]


def test_a_sitting_ends_in_time_and_the_next_goes_on(ablation):
    marked(ablation, 1, "first", "wait")
    began = time.monotonic()
    rows = ablation.run(["first"], jobs=2, minutes=3 / 60)
    assert time.monotonic() - began < 30
    assert "time of this sitting" in rows[0]["seeds"]["1"]["failed"]
    assert rows[1]["seeds"]["1"] == {"failed": "not run"}
    assert "first" not in {row["name"] for row in ablation.run(["second"], jobs=2) if "failed" in row["seeds"]["1"]}
    assert iterations(ablation, 1, "first") == ["0", "1", "2", "3"]
    late = Ablation("shapes", {1: DATA}, ablation.output, (), ablation.rows).run(["third"], minutes=0)
    assert "not begun" in late[2]["seeds"]["1"]["failed"] and "seconds" in late[1]["seeds"]["1"]


def test_an_interruption_leaves_what_there_is(ablation, monkeypatch):
    ablation.run(["second"], jobs=2)
    monkeypatch.setattr(ablation_module, "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ablation.run(jobs=1)
    rows = ablation.report()
    assert "seconds" in rows[1]["seeds"]["1"] and rows[2]["seeds"]["2"] == {"failed": "not run"}


def test_tool_with_stub_trainings(stub, tmp_path, monkeypatch, capsys):
    made = []

    def shapes_data(folder, percent, seed):
        made.append((percent, seed))
        return DATA

    monkeypatch.setattr(arguments_module, "shapes_data", shapes_data)
    arguments = ["--output", str(tmp_path / "out"), "--seeds", "1", "2", "--percent", "10", "--jobs", "4"]
    monkeypatch.setattr(sys, "argv", ["ablate.py", *arguments, "--rows", "teacher", "--opts", "SOLVER.MAX_ITER", "4"])
    runpy.run_path(str(ROOT / "tools" / "ablate.py"), run_name="__main__")
    document = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert made == [(10.0, 1), (10.0, 2)] and [row["name"] for row in document["rows"]] == list(grid())
    assert document["settings"]["options"] == "SOLVER.MAX_ITER 4" and document["settings"]["seeds"] == "1, 2"
    monkeypatch.setattr(sys, "argv", ["ablate.py", *arguments[:4], *arguments[5:], "--opts", "SOLVER.MAX_ITER", "4"])
    runpy.run_path(str(ROOT / "tools" / "ablate.py"), run_name="__main__")
    document = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert all("seconds" in row["seeds"]["1"] for row in document["rows"]) and document["settings"]["seeds"] == "1, 2"
    assert ["seconds" in row["seeds"]["2"] for row in document["rows"]] == [row == "teacher" for row in grid()]
    assert (tmp_path / "out" / "ablation.md").read_text().strip() in capsys.readouterr().out
    assert (tmp_path / "out" / "ablation.png").stat().st_size > 1000
