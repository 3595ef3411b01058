"""The console commands list their subcommands at once, and tell mistakes in one sentence."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import d2kit
import istd.cli
import s4m.cli
from d2kit.commands import run_program

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {"s4m": s4m.cli, "istd": istd.cli}


def modules(package):
    """Subcommands that have a module, and their files."""
    files = (ROOT / package / "commands").glob("[a-z]*.py")
    return {path.stem.replace("_", "-"): path for path in files}


@pytest.mark.parametrize("package", PROGRAMS)
def test_help_has_a_line_for_every_module(package, capsys):
    with pytest.raises(SystemExit) as end:
        PROGRAMS[package].main(["--help"])
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "}
    assert end.value.code == 0
    assert set(PROGRAMS[package].COMMANDS) == set(modules(package)) <= set(lines)
    assert all(len(lines[name]) >= 3 for name in modules(package))


@pytest.mark.parametrize("package", PROGRAMS)
def test_every_command_but_eval_shows_an_example(package):
    for name, path in modules(package).items():
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert re.search(f"^ *{package} {name} ", text, re.MULTILINE) or name == "eval", path


@pytest.mark.parametrize("package", PROGRAMS)
def test_version(package, capsys):
    with pytest.raises(SystemExit) as end:
        PROGRAMS[package].main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"{package} {d2kit.__version__}\n"
    assert s4m.__version__ == istd.__version__ == d2kit.__version__


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "a command is missing"), (["cook"], "the command 'cook' does not exist")]
)
def test_a_wrong_subcommand_is_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        s4m.cli.main(arguments)
    assert end.value.code == 2 and f"{message}; choose from train, eval, " in capsys.readouterr().err


def test_a_mistake_is_one_sentence_with_status_1_unless_its_traceback_is_wanted(capsys, monkeypatch):
    mistake = ["split", "--json", "none.json"]
    assert s4m.cli.main(mistake) == 1
    assert capsys.readouterr().err == "s4m split: error: COCO json 'none.json' does not exist\n"
    monkeypatch.setenv("D2KIT_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        s4m.cli.main(mistake)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "none.yaml"], "the configuration file 'none.yaml' does not exist"),
        (["--config-file", "quick/shapes_stage1.yaml", "S4M.SD.POINT", "3"], "S4M.SD.POINT"),
        (["--config-file", "istd/networks/acm.yaml"], "Non-existent config key: DATASETS.VALIDATION"),
    ],
)
def test_a_training_that_cannot_start_is_one_sentence(arguments, message, capsys):
    assert s4m.cli.main(["train", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("s4m train: error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize("package", PROGRAMS)
def test_the_package_is_a_program_that_lists_commands_without_the_training_stack(package):
    code = f"""
import runpy, sys
sys.argv = ["{package}", "--help"]
try:
    runpy.run_module("{package}", run_name="__main__")
except SystemExit as end:
    assert not end.code
assert not {{"torch", "detectron2", "cv2"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"usage: {package} " in done.stdout


def test_modules_are_found_by_the_names_of_their_commands(capsys):
    with pytest.raises(SystemExit):
        run_program("s4m", "", {"prepare-voc": "x"}, ["prepare-voc", "--help"])
    assert "usage: s4m prepare-voc " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("package", "name"), [(s4m, "coco/R50-FPN_5pct_stage2.yaml"), (istd, "networks/alcnet.yaml")]
)
def test_shipped_configurations_are_found_by_name(package, name):
    assert Path(package.get_config_file(name)).samefile(ROOT / "configs" / package.__name__ / name)
    with pytest.raises(FileNotFoundError, match="none.yaml"):
        package.get_config_file("none.yaml")
