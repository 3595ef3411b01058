"""Exported forms of an ISTD network are written, scored and refused as the options say."""

import json
import sys

import pytest
import torch

from d2kit.commands import run_command
from d2kit.config_files import compose_config
from istd import add_istd_config
from istd.checkpoints import Recipe, save_network
from istd.commands import export
from istd.data.synthetic import write_scenes
from istd.deploy import open_model
from istd.modeling import build_network


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """Folder of three images with masks, split into two for training and one for the test."""
    root = tmp_path_factory.mktemp("istd") / "scenes"
    write_scenes(root, 3, seed=0, size=(32, 48), splits=(0.67, 0.0), empty_share=0.0)
    return root


def test_an_istd_student_in_every_form(small_set, tmp_path, capsys):
    save_network(tmp_path / "acm.pth", build_network("ACM"), Recipe("ACM", {"in_channels": 3}, mean=90.0))
    files = [str(tmp_path / "out" / f"student{suffix}") for suffix in (".onnx", ".pt", ".pth")]
    config = ["--config-file", "istd/networks/acm.yaml"]
    small = str(tmp_path / "out" / "int8.onnx")
    options = ["--checkpoint", str(tmp_path / "acm.pth"), "--output", *files, "--int8", small]
    data = ["--calibrate", f"sirst:{small_set}:train.txt", "--evaluate", f"sirst:{small_set}:test.txt"]
    assert run_command(export, [*options, *data, "--report", str(tmp_path / "report.json")]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[:3] == files and lines[3].startswith(f"{small} ")
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["scores"]) == ["PyTorch", *files, small] and report["images"] == 1
    assert all(abs(report["scores"][name]["IoU_loss"]) < 0.5 for name in files)
    assert all(open_model(name, trust=True).recipe.mean == 90.0 for name in (*files, small))
    assert run_command(export, ["--checkpoint", str(tmp_path / "acm.pth"), *config, "--output", files[0]]) == 0
    assert open_model(files[0]).recipe.mean == 95.010, "the configuration says how it is fed"


def test_the_best_checkpoint_of_a_run(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    start = ["--run", str(run), "--output", str(tmp_path / "x.pth")]
    assert run_command(export, start) == 1
    assert "is no folder of a training: it holds no config.yaml" in capsys.readouterr().err
    cfg = compose_config(["istd/networks/acm.yaml"], ["ISTD.TEST.THRESHOLD", "0.25"], [add_istd_config])
    (run / "config.yaml").write_text(cfg.dump())
    weights = build_network("ACM").state_dict()
    for name, added in (("model_final.pth", 0), ("model_best.pth", 1)):
        shifted = {key: value + added for key, value in weights.items()}
        torch.save({"model": {f"network.{key}": value for key, value in shifted.items()}}, run / name)
    assert run_command(export, start) == 0
    exported = torch.load(tmp_path / "x.pth", weights_only=True)
    assert exported["istd"]["threshold"] == 0.25
    assert all(torch.equal(value, weights[key] + 1) for key, value in exported["model"].items())


def test_what_cannot_be_done_with_an_istd_student(small_set, tmp_path, capsys):
    save_network(tmp_path / "acm.pth", build_network("ACM"), Recipe("ACM"))
    start = ["--checkpoint", str(tmp_path / "acm.pth"), "--output", str(tmp_path / "x.onnx")]
    int8 = [*start, "--int8", str(tmp_path / "int8.onnx")]
    split = f"sirst:{small_set}:test.txt"
    for options, message in (
        (int8, "needs training images"),
        ([*int8, "--calibrate", split, "--evaluate", split], "calibrate on training images alone"),
        ([*start[:3], str(tmp_path / "x.pt"), "--int8", "y.onnx"], "quantizes an .onnx file"),
    ):
        assert run_command(export, options) == 1
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["acm.pth"], "nothing is written before all is there"


def test_options_and_masks_that_are_missing(small_set, tmp_path, capsys):
    save_network(tmp_path / "acm.pth", build_network("ACM"), Recipe("ACM"))
    start = ["--checkpoint", str(tmp_path / "acm.pth"), "--output", str(tmp_path / "x.pt")]
    for options, message in (
        (["--report", "scores.json"], "--report needs --evaluate"),
        (["--calibrate", f"sirst:{small_set}:train.txt"], "--calibrate needs --int8"),
        (["--int8", str(tmp_path / "x.pt")], "--int8 must name another file than --output"),
    ):
        with pytest.raises(SystemExit):
            run_command(export, [*start, *options])
        assert message in capsys.readouterr().err
    assert run_command(export, [*start, "--evaluate", f"sirst:{small_set}:test.txt:masks="]) == 1
    assert "has no mask to be scored by" in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()


def test_a_missing_package_is_told_before_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    start = ["--checkpoint", str(tmp_path / "absent.pth"), "--output", str(tmp_path / "x.onnx"), "--int8", "y.onnx"]
    assert run_command(export, start) == 1
    assert "onnxruntime is not installed" in capsys.readouterr().err
