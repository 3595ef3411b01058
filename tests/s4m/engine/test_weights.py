"""Which network a file's weights reach: those of the model zoo, of a plain network, of stage 1."""

import pickle

import pytest
import torch
from detectron2.modeling import build_model

from s4m.engine.weights import TeacherStudentCheckpointer, load_teacher, network_weights


@pytest.fixture(scope="module")
def build(small_cfg):
    def make(seed=0, **options):
        torch.manual_seed(seed)
        return build_model(small_cfg("mean_teacher", **options))

    return make


@pytest.fixture(scope="module")
def stage1(build, tmp_path_factory):
    """A checkpoint of supervised training, and its student's weights."""
    folder = tmp_path_factory.mktemp("stage1")
    model = build(seed=1, semi=False)
    TeacherStudentCheckpointer(model, str(folder)).save("model_final", iteration=9)
    return str(folder / "model_final.pth"), model.student.state_dict()


def same(a, b):
    a = a if isinstance(a, dict) else a.state_dict()
    b = b if isinstance(b, dict) else b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def zoo_file(path, style, weights):
    """`weights`, of R18's first layers, as torchvision or Caffe2 name them."""
    names = {
        "torchvision": {"stem": "stem.conv1.weight", "res2": "res2.0.conv1.weight", "norm": "res2.0.conv1.norm.weight"},
        "caffe2": {"stem": "conv1_w", "res2": "res2_0_branch2a_w", "norm": "res2_0_branch2a_bn_s"},
    }[style]
    arrays = {names[key]: value.numpy() for key, value in weights.items()}
    extra = {"__author__": "torchvision", "matching_heuristics": True}
    content = {"model": arrays, **extra} if style == "torchvision" else arrays
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("style", ["torchvision", "caffe2"])
@pytest.mark.parametrize("semi", [True, False])
def test_backbone_of_the_model_zoo_goes_to_the_student(build, tmp_path, style, semi):
    model = build(semi=semi)
    backbone = model.student.backbone.bottom_up
    layers = {"stem": backbone.stem.conv1, "res2": backbone.res2[0].conv1, "norm": backbone.res2[0].conv1.norm}
    wanted = {key: torch.randn_like(layer.weight) for key, layer in layers.items()}
    kept = backbone.res5[0].conv1.weight.clone()
    zoo_file(tmp_path / "R-18.pkl", style, wanted)
    checkpointer = TeacherStudentCheckpointer(model)
    checkpointer.load(str(tmp_path / "R-18.pkl"))
    assert checkpointer.model is model
    for key, layer in layers.items():
        assert torch.equal(layer.weight, wanted[key]), key
    assert torch.equal(backbone.res5[0].conv1.weight, kept)
    if semi:
        assert same(model.teacher, model.student)


def test_plain_network_of_other_classes_gives_what_fits(build, small_cfg, tmp_path):
    cfg = small_cfg("supervised", semi=False, MODEL__ROI_HEADS__NUM_CLASSES=80)
    cfg.MODEL.META_ARCHITECTURE = "S4MRCNN"
    plain = build_model(cfg)
    TeacherStudentCheckpointer(plain, str(tmp_path)).save("coco")
    model = build()
    kept = model.student.roi_heads.box_predictor.cls_score.weight.clone()
    TeacherStudentCheckpointer(model).load(str(tmp_path / "coco.pth"))
    assert same(model.student.backbone, plain.backbone) and same(model.teacher, model.student)
    assert torch.equal(model.student.roi_heads.box_predictor.cls_score.weight, kept)


def test_both_networks_come_back(build, tmp_path):
    model = build(seed=3)
    torch.nn.init.constant_(model.teacher.backbone.fpn_output2.weight, 0.5)
    TeacherStudentCheckpointer(model, str(tmp_path)).save("both")
    other = build(seed=4)
    TeacherStudentCheckpointer(other).load(str(tmp_path / "both.pth"))
    assert same(other, model) and not same(other.teacher, other.student)


@pytest.mark.parametrize("init", ["backbone", "teacher"])
def test_stage1_becomes_the_teacher(build, small_cfg, stage1, init):
    path, weights = stage1
    model = build()
    before = {key: value.clone() for key, value in model.student.state_dict().items()}
    load_teacher(small_cfg(S4M__TEACHER__WEIGHTS=path, S4M__STUDENT_INIT=init), model)
    assert same(model.teacher, weights)
    assert same(model.student, weights if init == "teacher" else before)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_without_a_file_the_teacher_copies_the_student(build, small_cfg, caplog):
    model = build()
    torch.nn.init.zeros_(model.student.backbone.fpn_output2.weight)
    with caplog.at_level("INFO", logger="s4m"):
        load_teacher(small_cfg(), model)
    assert same(model.teacher, model.student) and "starts as a copy of the student" in caplog.text


def test_the_teacher_of_a_second_stage_stays(build, small_cfg, tmp_path, caplog):
    model = build(seed=3)
    torch.nn.init.constant_(model.teacher.backbone.fpn_output2.weight, 0.5)
    TeacherStudentCheckpointer(model, str(tmp_path)).save("stage2")
    path = str(tmp_path / "stage2.pth")
    other = build(seed=4)
    TeacherStudentCheckpointer(other).load(path)
    with caplog.at_level("INFO", logger="s4m"):
        load_teacher(small_cfg(MODEL__WEIGHTS=path), other)
    assert same(other.teacher, model.teacher) and f"The teacher is that of MODEL.WEIGHTS '{path}'." in caplog.text


def test_without_a_teacher_nothing_is_loaded(build, small_cfg):
    load_teacher(small_cfg(semi=False, S4M__TEACHER__WEIGHTS="absent.pth"), build(semi=False))


def test_bad_files_and_keys_are_named(build, small_cfg, stage1, tmp_path):
    model = build()
    with pytest.raises(FileNotFoundError, match="S4M.TEACHER.WEIGHTS.*absent.pth"):
        load_teacher(small_cfg(S4M__TEACHER__WEIGHTS=str(tmp_path / "absent.pth")), model)
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(ValueError, match="S4M.TEACHER.WEIGHTS.*torn.pth"):
        load_teacher(small_cfg(S4M__TEACHER__WEIGHTS=str(tmp_path / "torn.pth")), model)
    other = build(MODEL__FPN__OUT_CHANNELS=64)
    with pytest.raises(ValueError, match="S4M.TEACHER.WEIGHTS.*model_final.pth.*does not fit the configured network"):
        load_teacher(small_cfg(S4M__TEACHER__WEIGHTS=stage1[0]), other)


def test_network_weights():
    one, two = torch.ones(1), torch.zeros(1)
    both = {"model": {"student.a": one, "teacher.a": two}, "iteration": 3}
    assert network_weights(both, "student", "f") == {"a": one}
    assert network_weights(both, "teacher", "f") == {"a": two}
    assert network_weights({"a": one}, "student", "f") == {"a": one}
    with pytest.raises(ValueError, match="'f' holds no teacher"):
        network_weights({"model": {"student.a": one}}, "teacher", "f")
    with pytest.raises(ValueError, match="'f' holds a value of the type int as 'a' where a tensor is expected"):
        network_weights({"a": 1}, "student", "f")


def test_weights_that_are_not_finite_are_not_saved(build, tmp_path):
    model = build(semi=False)
    checkpointer = TeacherStudentCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001")
    torch.nn.init.constant_(model.student.backbone.fpn_output2.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="student.backbone.fpn_output2.weight.*model_0000003 is not saved"):
        checkpointer.save("model_0000003")
    assert checkpointer.get_checkpoint_file().endswith("model_0000001.pth")
    assert not (tmp_path / "model_0000003.pth").exists()
