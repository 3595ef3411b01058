"""compare, ablate, reproduce_table and demo_istd: with a stand-in for the trainings, and one small real training."""

import json
import runpy
import signal
import subprocess
import sys
import time

import pytest

from experiments import grid
from s4m.data.shapes import write_shapes

TOOLS = grid.TRAIN_NET.parent


@pytest.fixture
def run_tool(monkeypatch):
    """Function (tool, *arguments) that runs a tool in this process."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(TOOLS / f"{name}.py"), run_name="__main__")

    return run


@pytest.fixture
def shapes(tmp_path):
    """The arguments that make 12 small images the training and the test set."""
    folder, classes = tmp_path / "shapes", ("circle", "square", "triangle")
    data = [write_shapes(folder, 12, seed=0, image_size=(64, 64), classes=classes), folder / "images"]
    return ["--train", *data, "--test", *data, "--percent", "50"]


def test_comparison_of_two_seeds(run_tool, fake_training, shapes, tmp_path, capsys):
    run_tool("compare", "--output", tmp_path / "out", *shapes, "--seeds", "1", "2")
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["supervised", "stage1", "mean_teacher", "stage2", "supervised_longer"]
    assert "| S4M stage 1 | 6.0 ± 0.0 | - | - | - | 1.5 ± 0.7 |" in capsys.readouterr().out
    assert all((tmp_path / "out" / f"seed{seed}" / "comparison.png").is_file() for seed in (1, 2))


def test_ablation_of_several_sittings(run_tool, fake_training, shapes, tmp_path, capsys):
    output, options = tmp_path / "out", ["--opts", "SOLVER.MAX_ITER", "4"]
    run_tool("ablate", "--output", output, *shapes, "--seeds", "1", "2", "--rows", "stage1", *options)
    run_tool("ablate", "--output", output, *shapes, "--seeds", "1", "--jobs", "4", *options)
    document = json.loads((output / "ablation.json").read_text())
    assert document["settings"]["options"] == "MODEL.DEVICE cpu SOLVER.MAX_ITER 4"
    assert all("seconds" in row["seeds"]["1"] for row in document["rows"]) and len(document["rows"]) == 18
    assert [row["name"] for row in document["rows"] if "seconds" in row["seeds"]["2"]] == ["stage1"]
    assert (output / "ablation.md").read_text().strip() in capsys.readouterr().out
    assert (output / "ablation.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="another options, configuration of supervised, .*: '.*settings.json' says"):
        run_tool("ablate", "--output", output, *shapes, "--seeds", "1", "--opts", "SOLVER.MAX_ITER", "5")


def test_table_of_several_sittings_with_a_sweep(run_tool, fake_training, tmp_path, capsys):
    arguments = ["--output", tmp_path / "out", "--scenes", "3", "--schemes", "pal", "--seeds", "1", "2"]
    sweep = ["--sweep", "ISTD.SCAM.SCALE", "0.1", "0.3"]
    run_tool("reproduce_table", *arguments, "--networks", "acm", *sweep)
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [row["title"] for row in rows] == [f"acm | pal | ISTD.SCAM.SCALE={value}" for value in (0.1, 0.3)]
    assert "| acm | pal | ISTD.SCAM.SCALE=0.3 |\n" in capsys.readouterr().out
    run_tool("reproduce_table", *arguments, "--networks", "mshnet")
    assert "| mshnet | pal | - | student | 2 | 1, 2 | 1.00 ± 0.00 | 1.50 ± 0.71 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sweep", "ISTD.SCAM.SCALE"], "a key and at least one value"),
        (["--networks", "unet"], "invalid choice: 'unet'"),
        (["--data", "a", "--scenes", "3"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_one_sentence(run_tool, capsys, tmp_path, options, message):
    with pytest.raises(SystemExit):
        run_tool("reproduce_table", "--output", tmp_path / "out", *options)
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_demo_of_istd(run_tool, fake_training, tmp_path, capsys):
    run_tool("demo_istd", "--output", tmp_path / "out", "--scenes", "3", "--schemes", "full", "lesps")
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["alcnet_full", "alcnet_lesps"]
    assert "| alcnet | lesps | - | student | 2 | 1 | 1.00 | 1.00 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "training", "number"),
    [
        ("demo_istd", "alcnet_full", signal.SIGTERM),
        ("compare", "supervised", signal.SIGHUP),
        ("compare", "supervised", signal.SIGKILL),
    ],
)
def test_a_tool_that_ends_takes_its_trainings_with_it(
    name, training, number, shapes, fake_training, tmp_path, processes
):
    wait_for_number, is_alive = processes
    arguments = {"demo_istd": ["--schemes", "full", "--scenes", "3"], "compare": shapes}[name]
    folder = tmp_path / "out" / "seed1" / training
    folder.mkdir(parents=True)
    (folder / "wait").touch()
    code = f"import runpy, sys; sys.path.insert(0, {str(TOOLS)!r})\n"
    code += f"from experiments import grid; grid.TRAIN_NET = {str(fake_training)!r}\n"
    code += f"runpy.run_path({str(TOOLS / name)!r} + '.py', run_name='__main__')"
    command = [sys.executable, "-c", code, "--output", str(tmp_path / "out"), "--jobs", "1", *map(str, arguments)]
    tool = subprocess.Popen(command)
    pid = wait_for_number(folder / "pid")
    assert is_alive(pid)
    tool.send_signal(number)
    if number == signal.SIGKILL:
        assert tool.wait(60) == -signal.SIGKILL
        end = time.monotonic() + 10
        while is_alive(pid) and time.monotonic() < end:
            time.sleep(0.02)
    else:
        assert tool.wait(60) == 128 + number
        assert "not finished" in (tmp_path / "out" / "summary.md").read_text()
    assert not is_alive(pid)


def test_a_real_training_of_two_iterations(run_tool, shapes, tmp_path):
    small = ["SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "2", "SOLVER.IMS_PER_BATCH", "1"]
    run_tool("ablate", "--output", tmp_path / "out", *shapes, "--rows", "stage1", "--opts", *small)
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    figures = {row["name"]: row["seeds"]["1"] for row in rows}
    assert figures["stage1"]["iteration"] == 2 and "student/segm/AP50" in figures["stage1"]
    assert (tmp_path / "out" / "seed1" / "stage1" / "model_final.pth").is_file()
