"""The scripts are thin: each shows the help of the command that it stands for."""

import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
COMMANDS = {
    "train_net": "train",
    "check_data": "check",
    "make_splits": "split",
    "make_tiles": "tiles",
    "prepare_voc": "voc",
    "prepare_cityscapes": "cityscapes",
    "make_points": "points",
    "make_clusters": "clusters",
    "detect": "detect",
    "plot_roc": "roc",
    "convert_istd_checkpoint": "convert",
    "export_student": "export",
}


def run(script, *arguments):
    """Exit status of a script in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TOOLS / f"{script}.py"), *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(sys.argv[0], run_name="__main__")
    return end.value.code


@pytest.mark.parametrize("script", COMMANDS)
def test_help(script, capsys):
    assert not run(script, "--help")
    out = capsys.readouterr().out
    assert out.startswith(f"usage: {script}.py ") and COMMANDS[script] in out


def test_a_mistake_is_one_sentence(capsys):
    assert run("make_splits", "--json", "none.json") == 1
    assert capsys.readouterr().err == "make_splits.py: error: COCO json 'none.json' does not exist\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "x.pth", "--config-file", "istd/networks/acm.yaml", "--network", "teacher"], "not exported"),
        (["--output", "x.onnx", "--network", "teacher"], "not exported"),
        (["--output", "a.pth", "b.pth"], "exported to one file"),
        (["--output", "a.pth", "--int8", "x.onnx"], "exported to one file"),
        (["--output", "a.pth", "--config-file", "quick/shapes_stage2.yaml"], "'none.pth', which does not exist"),
        (["--output", "a.pt"], "'none.pth', which does not exist"),
    ],
)
def test_export_chooses_the_package(options, message, capsys):
    assert run("export_student", "--checkpoint", "none.pth", *options) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "istd/networks/acm.yaml", "S4M.UNLABELED_BATCH", "1"], "S4M"),
        (["--config-file", "quick/shapes_stage1.yaml", "ISTD.INPUT.CROP", "64"], "ISTD"),
    ],
)
def test_training_has_the_keys_of_the_package_that_is_trained(arguments, message, capsys):
    assert run("train_net", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error and "Non-existent" in error
