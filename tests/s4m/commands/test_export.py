"""An exported network is Detectron2's own Mask R-CNN: no import of ours, equal outputs."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from safetensors.torch import load_file

from d2kit.commands import run_command
from s4m.commands import export
from s4m.deploy.export import plain_config
from s4m.engine.weights import TeacherStudentCheckpointer

PLAIN = """
import sys, torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
model = build_model(cfg).eval()
assert type(model).__name__ == "GeneralizedRCNN" and type(model.roi_heads).__name__ == "StandardROIHeads"
DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
assert set(model.state_dict()) == set(torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"])
with torch.no_grad():
    found = model(torch.load(sys.argv[2], weights_only=True))
torch.save([[x["instances"].pred_boxes.tensor, x["instances"].scores, x["instances"].pred_masks] for x in found],
           sys.argv[3])
ours = {"s4m", "istd", "d2kit"} & {name.split(".")[0] for name in sys.modules}
assert not ours, ours
"""


@pytest.fixture(scope="module")
def trained(small_cfg, tmp_path_factory):
    """A model with both networks, the folder with its checkpoint and its config.yaml."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = small_cfg("mean_teacher")
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.mul_(0.9)
    TeacherStudentCheckpointer(model, str(folder)).save("model_final", iteration=3)
    (folder / "config.yaml").write_text(cfg.dump())
    return model, folder


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_plain_detectron2_gives_the_same(trained, network, tmp_path, capsys):
    model, folder = trained
    weights = tmp_path / "plain" / "exported.pth"
    options = ["--checkpoint", str(folder / "model_final.pth"), "--output", str(weights), "--network", network]
    assert run_command(export, [*options, "--config-file", str(folder / "config.yaml")]) == 0
    assert capsys.readouterr().out.split() == [str(weights.with_suffix(".yaml")), str(weights)]

    sizes = [(64, 64), (50, 81)]
    data = [{"image": torch.randint(0, 256, (3, *s), dtype=torch.uint8), "height": s[0], "width": s[1]} for s in sizes]
    torch.save(data, tmp_path / "images.pth")
    arguments = [weights.with_suffix(".yaml"), tmp_path / "images.pth", tmp_path / "found.pth"]
    subprocess.run([sys.executable, "-c", PLAIN, *map(str, arguments)], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = getattr(model, network)(data)
    for (boxes, scores, masks), wanted in zip(torch.load(tmp_path / "found.pth"), expected, strict=True):
        wanted = wanted["instances"]
        assert len(scores) == len(wanted) > 0
        torch.testing.assert_close(boxes, wanted.pred_boxes.tensor)
        torch.testing.assert_close(scores, wanted.scores)
        assert (masks != wanted.pred_masks).float().mean() < 1e-4


def test_config_of_a_plain_network(small_cfg):
    cfg = small_cfg()
    cfg.DATASETS.TEST = (*cfg.DATASETS.TEST, "coco_2017_val")
    plain = plain_config(cfg, "w.pth")
    assert plain.keys() == get_cfg().keys() and plain.MODEL.WEIGHTS == "w.pth"
    assert plain.MODEL.PROPOSAL_GENERATOR.NAME == "RPN" and plain.MODEL.FPN == cfg.MODEL.FPN
    assert plain.DATASETS.TRAIN == () and plain.DATASETS.TEST == ("coco_2017_val",)
    cfg.S4M.STUDENT = "Other"
    with pytest.raises(ValueError, match="S4M.STUDENT is 'Other'"):
        plain_config(cfg, "w.pth")


@pytest.mark.parametrize("name", ["build_vit_backbone", "build_timm_backbone"])
def test_backbone_that_detectron2_lacks_is_refused(trained, small_cfg, tmp_path, capsys, name):
    cfg = small_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    with pytest.raises(ValueError, match=f"MODEL.BACKBONE.NAME is '{name}'.*Detectron2 cannot build it"):
        plain_config(cfg, "w.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    weights = tmp_path / "x.pth"
    options = ["--checkpoint", str(trained[1] / "model_final.pth"), "--output", str(weights)]
    assert run_command(export, [*options, "--config-file", str(tmp_path / "config.yaml")]) == 1
    assert f"error: MODEL.BACKBONE.NAME is '{name}'" in capsys.readouterr().err
    assert not weights.exists()


def test_what_cannot_be_exported_is_one_sentence(small_cfg, tmp_path, capsys):
    assert run_command(export, ["--checkpoint", "absent.pth", "--output", str(tmp_path / "x.pth")]) == 1
    assert "error: --checkpoint names the checkpoint 'absent.pth'" in capsys.readouterr().err
    model = build_model(small_cfg("supervised", semi=False))
    TeacherStudentCheckpointer(model, str(tmp_path)).save("stage1")
    options = ["--checkpoint", str(tmp_path / "stage1.pth"), "--output", str(tmp_path / "x.pth")]
    assert run_command(export, [*options, "--network", "teacher"]) == 1
    assert "holds no teacher" in capsys.readouterr().err
    assert not (tmp_path / "x.pth").exists()


def test_no_other_extension_is_written(trained, tmp_path, capsys):
    output = tmp_path / "x.pkl"
    assert run_command(export, ["--checkpoint", str(trained[1] / "model_final.pth"), "--output", str(output)]) == 1
    assert "x.pkl': a network is exported as .onnx, .pth, .safetensors" in capsys.readouterr().err
    assert not output.exists()


def test_a_configuration_is_needed_for_a_recipe(trained, tmp_path, capsys):
    for output in (tmp_path / "x.onnx", tmp_path / "folder"):
        assert run_command(export, ["--checkpoint", str(trained[1] / "model_final.pth"), "--output", str(output)]) == 1
        assert "needs --run, or --config-file" in capsys.readouterr().err
        assert not output.exists()


def test_safetensors_and_a_folder_hold_the_weights(trained, tmp_path):
    model, folder = trained
    names = ["--classes", "circle", "square", "triangle", "hexagon", "ellipse"]
    for output in (tmp_path / "x.safetensors", tmp_path / "hub"):
        options = ["--run", str(folder), "--output", str(output), "--network", "teacher", *names]
        assert run_command(export, options) == 0
    for path in (tmp_path / "x.safetensors", tmp_path / "hub" / "model.safetensors"):
        weights = load_file(path)
        expected = model.teacher.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["id2label"]["1"] == "square" and config["label2id"]["ellipse"] == 4
    assert config["architectures"] == ["S4MRCNN"] and config["score_threshold"] == 0.05


def test_the_yaml_of_a_plain_network_works_from_anywhere(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a", "b", "c", "d", "e"]
    assert run_command(export, ["--run", str(trained[1]), "--output", "x.pth", "--classes", *names]) == 0
    text = (tmp_path / "x.yaml").read_text()
    assert text.splitlines()[0] == '# classes: ["a", "b", "c", "d", "e"]'
    assert yaml.safe_load(text)["MODEL"]["WEIGHTS"] == str(tmp_path / "x.pth")
