"""An exported network is Detectron2's own Mask R-CNN: no import of ours, equal outputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from s4m.engine.export import plain_config
from s4m.engine.weights import TeacherStudentCheckpointer

SCRIPT = Path(__file__).parents[2] / "tools" / "export_student.py"
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
    """A model with both networks, the folder with its checkpoint and its config.yaml, which has all our keys."""
    from istd import add_istd_config

    folder = tmp_path_factory.mktemp("trained")
    cfg = small_cfg("mean_teacher")
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.mul_(0.9)
    TeacherStudentCheckpointer(model, str(folder)).save("model_final", iteration=3)
    add_istd_config(cfg)
    (folder / "config.yaml").write_text(cfg.dump())
    return model, folder


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_plain_detectron2_gives_the_same(tool, trained, network, tmp_path, capsys):
    model, folder = trained
    weights = tmp_path / "plain" / "exported.pth"
    options = ["--checkpoint", str(folder / "model_final.pth"), "--output", str(weights), "--network", network]
    tool.main([*options, "--config-file", str(folder / "config.yaml")])
    assert capsys.readouterr().out.split() == [str(weights), str(weights.with_suffix(".yaml"))]

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
def test_backbone_that_detectron2_lacks_is_refused(tool, trained, small_cfg, tmp_path, name):
    cfg = small_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    with pytest.raises(ValueError, match=f"MODEL.BACKBONE.NAME is '{name}'.*Detectron2 cannot build it"):
        plain_config(cfg, "w.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    checkpoint, weights = str(trained[1] / "model_final.pth"), tmp_path / "x.pth"
    with pytest.raises(SystemExit, match=f"export_student: MODEL.BACKBONE.NAME is '{name}'"):
        tool.main(
            ["--checkpoint", checkpoint, "--output", str(weights), "--config-file", str(tmp_path / "config.yaml")]
        )
    assert not weights.exists()


def test_what_cannot_be_exported_is_one_sentence(tool, trained, small_cfg, tmp_path):
    with pytest.raises(SystemExit, match="export_student: --checkpoint names .*absent.pth"):
        tool.main(["--checkpoint", "absent.pth", "--output", str(tmp_path / "x.pth")])
    model = build_model(small_cfg("supervised", semi=False))
    TeacherStudentCheckpointer(model, str(tmp_path)).save("stage1")
    options = ["--checkpoint", str(tmp_path / "stage1.pth"), "--output", str(tmp_path / "x.pth")]
    with pytest.raises(SystemExit, match="holds no teacher"):
        tool.main([*options, "--network", "teacher"])
    assert not (tmp_path / "x.pth").exists()


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """Folder of three images with masks, split into two for training and one for the test."""
    from istd.data.synthetic import write_scenes

    root = tmp_path_factory.mktemp("istd") / "scenes"
    write_scenes(root, 3, seed=0, size=(32, 48), splits=(0.67, 0.0), empty_share=0.0)
    return root


def test_an_istd_student_in_every_form(tool, small_set, tmp_path, capsys):
    from istd.checkpoints import Recipe, save_network
    from istd.deploy import open_model
    from istd.modeling import build_network

    save_network(tmp_path / "acm.pth", build_network("ACM"), Recipe("ACM", {"in_channels": 3}, mean=90.0))
    files = [str(tmp_path / "out" / f"student{suffix}") for suffix in (".onnx", ".pt", ".pth")]
    config = ["--config-file", str(Path(SCRIPT).parents[1] / "configs" / "istd" / "networks" / "acm.yaml")]
    small = str(tmp_path / "out" / "int8.onnx")
    options = ["--checkpoint", str(tmp_path / "acm.pth"), "--output", *files, "--int8", small]
    data = ["--calibrate", f"sirst:{small_set}:train.txt", "--evaluate", f"sirst:{small_set}:test.txt"]
    tool.main([*options, *data, "--report", str(tmp_path / "report.json")])
    assert capsys.readouterr().out.split("\n")[:4] == [*files, small]
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["scores"]) == ["PyTorch", *files, small] and report["images"] == 1
    assert all(abs(report["scores"][name]["IoU_loss"]) < 0.5 for name in files)
    assert all(open_model(name).recipe.mean == 90.0 for name in (*files, small))
    tool.main(["--checkpoint", str(tmp_path / "acm.pth"), *config, "--output", files[0]])
    assert open_model(files[0]).recipe.mean == 95.010, "the configuration says how it is fed"


def test_what_cannot_be_done_with_an_istd_student(tool, small_set, tmp_path):
    from istd.checkpoints import Recipe, save_network
    from istd.modeling import build_network

    save_network(tmp_path / "acm.pth", build_network("ACM"), Recipe("ACM"))
    start = ["--checkpoint", str(tmp_path / "acm.pth"), "--output", str(tmp_path / "x.onnx")]
    int8 = [*start, "--int8", str(tmp_path / "int8.onnx")]
    split = f"sirst:{small_set}:test.txt"
    for options, message in (
        ([*start, "--network", "teacher"], "needs its foundation model"),
        (int8, "needs training images"),
        ([*int8, "--calibrate", split, "--evaluate", split], "calibrate on training images alone"),
        ([*start[:3], str(tmp_path / "x.pt"), "--int8", "y.onnx"], "quantises an .onnx file"),
        ([*start[:3], "a.pth", "b.pth"], "exported to one .pth file"),
    ):
        with pytest.raises(SystemExit, match=f"export_student: .*{message}"):
            tool.main(options)
    assert not (tmp_path / "int8.onnx").exists()
