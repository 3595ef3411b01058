"""Order, failures, time and resuming of a grid, with real processes of a stand-in for tools/train_net.py."""

import time
from types import SimpleNamespace

import pytest

from experiments import grid as module
from experiments.grid import Grid, Training
from experiments.s4m import final_figures

FILES = ("configs/quick/shapes_stage1.yaml",)
TRAININGS = [
    Training("second", "the second", FILES, start="first", start_key="S4M.TEACHER.WEIGHTS", against="first"),
    Training("first", "the first", FILES, ("S4M.SD.ENABLED", "False")),
    Training("third", "the third", FILES, start="first", against="second"),
]


@pytest.fixture
def grid(fake_training, tmp_path):
    """Three trainings over two seeds: one from nothing, two that start from it."""
    return Grid(tmp_path / "out", TRAININGS, [1, 2], final_figures, keep_checkpoints=False)


def folder(grid, seed, name):
    return grid.output / f"seed{seed}" / name


def iterations(grid, seed, name):
    return (folder(grid, seed, name) / "iterations").read_text().split()


def marked(grid, seed, name, mark):
    folder(grid, seed, name).mkdir(parents=True)
    (folder(grid, seed, name) / mark).touch()


def failures(grid):
    return {(row.name, int(seed)): reason for row in grid.rows() for seed, reason in row.failures.items()}


def run(grid, *names, minutes=None):
    reports = []
    try:
        args = SimpleNamespace(jobs=2, threads=1, minutes=minutes)
        grid.run(args, lambda: reports.append(failures(grid)), names)
    finally:
        assert reports[-1] == failures(grid)


def test_command_and_digests(tmp_path):
    overlay = Training("a", "a", (*FILES, "configs/quick/overlays/vit.yaml"), ("TEST.AUG.ENABLED", "True"), "b")
    options = ["SOLVER.MAX_ITER", "3"]
    grid = Grid(tmp_path, [overlay], [4], final_figures, data=lambda row, seed: [row.name, str(seed)], options=options)
    assert grid.command(overlay, 4)[1:] == [
        "--resume", "--config-file", FILES[0], "--overlay", "configs/quick/overlays/vit.yaml",
        "OUTPUT_DIR", f"{tmp_path}/seed4/a", "SEED", "4", "a", "4", "MODEL.WEIGHTS",
        f"{tmp_path}/seed4/b/model_final.pth", "TEST.AUG.ENABLED", "True", "SOLVER.MAX_ITER", "3",
    ]  # fmt: skip
    without, other = (Grid(tmp_path, rows, [1], final_figures).digests() for rows in ([overlay], TRAININGS))
    assert grid.digests() != without and set(other) == {f"configuration of {row.name}" for row in TRAININGS}
    assert other["configuration of first"] != other["configuration of second"] == other["configuration of third"]
    assert module.TRAIN_NET.is_file()


def test_every_training_once_after_its_start_and_only_what_others_need_stays(grid, capsys):
    run(grid)
    rows = grid.rows()
    assert [row.values("student/segm/AP") for row in rows] == [[6, 6], [5, 5], [5, 5]] and not failures(grid)
    assert [(row.name, row.title, row.against) for row in rows][2] == ("third", "the third", "second")
    kept = sorted(path.relative_to(grid.output).as_posix() for path in grid.output.rglob("*.pth"))
    assert kept == ["seed1/first/model_final.pth", "seed2/first/model_final.pth"]
    output = capsys.readouterr().out
    assert output.count(" OMP_NUM_THREADS=1 python ") == 6 and "[third] OMP_NUM_THREADS" in output
    run(grid)
    assert grid.rows() == rows and iterations(grid, 2, "third") == ["0", "1", "2", "3"]


def test_a_killed_training_stops_nobody_else_and_goes_on_where_it_was(grid):
    marked(grid, 1, "first", "die")
    with pytest.raises(SystemExit, match="3 trainings failed: first of seed 1, second of seed 1, third of seed 1"):
        run(grid)
    assert failures(grid) == {
        ("first", 1): f"the end of '{folder(grid, 1, 'first')}.out' says why",
        ("second", 1): "'first', which it starts from, is not there",
        ("third", 1): "'first', which it starts from, is not there",
    }
    assert iterations(grid, 1, "first") == ["0", "1"]
    run(grid)
    assert not failures(grid) and iterations(grid, 1, "first") == iterations(grid, 2, "first") == ["0", "1", "2", "3"]


def test_a_sitting_ends_in_time_and_the_next_goes_on(grid, processes):
    _, is_alive = processes
    marked(grid, 1, "first", "wait")
    began = time.monotonic()
    run(grid, "first", minutes=4 / 60)
    assert time.monotonic() - began < 30 and not is_alive(int((folder(grid, 1, "first") / "pid").read_text()))
    assert failures(grid)["first", 1] == "not finished" and failures(grid)["second", 1] == "not run"
    seconds = 4
    run(grid, "second")
    assert iterations(grid, 1, "first") == ["0", "1", "2", "3"]
    assert [row.values("seconds")[0] > seconds for row in grid.rows()[:2]] == [False, True]
    assert set(failures(grid)) == {("third", 1), ("third", 2)}
    run(grid, "third", minutes=0)
    assert set(failures(grid)) == {("third", 1), ("third", 2)}


def test_a_training_without_figures_is_told(grid):
    grid = Grid(grid.output, TRAININGS[1:2], [1], lambda path: {"AP": {}["AP"]})
    with pytest.raises(SystemExit, match="1 trainings failed: first of seed 1"):
        run(grid)
    assert failures(grid) == {("first", 1): "'AP'"}


def test_rows_tell_seeds_of_earlier_sittings(grid):
    run(grid, "first")
    later = Grid(grid.output, TRAININGS, [7], final_figures)
    assert [list(row.seeds) for row in later.rows()] == [["1", "2", "7"]] * 3
    assert later.rows()[1].failures == {"7": "not run"}
