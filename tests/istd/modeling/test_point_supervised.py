"""The meta-architecture: losses, gradients, statistics, answers, what a checkpoint holds."""

import math

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

from istd.checkpoints import Recipe, save_network
from istd.data.view import View
from istd.engine.trainer import ISTDTrainer
from istd.losses import bce, bce_hard_iou, bce_soft_iou, distillation, soft_iou
from istd.modeling import SCAM, build_network, build_vfm
from istd.modeling.feature_cache import FeatureCache
from istd.modeling.point_supervised import PointSupervisedISTD


def make(*, scam: bool = True, name: str = "ACM", **options) -> PointSupervisedISTD:
    torch.manual_seed(0)
    network = build_network(name, **({"momentum": 0.1} if name == "ACM" else {}))
    parts = {}
    if scam:
        vfm = build_vfm("test_vit", "random", layers=3)
        parts = {
            "scam": SCAM(vfm.feature_dim, network.stage_channels, 3, 8, 0.5),
            "features": FeatureCache(vfm),
        }
        nn.init.normal_(parts["scam"].mlp[-1].weight, std=0.5)
    return PointSupervisedISTD(network=network, **parts, **options)


def crops(count: int = 2) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    result = []
    for i in range(count):
        mask = torch.zeros(32, 32)
        mask[10 + i : 14 + i, 12:15] = 1
        gray = torch.randint(0, 200, (1, 32, 32), generator=generator).float() + 50 * mask
        name = {"file_name": f"image{i}.png", "image_id": f"image{i}", "height": 80, "width": 80}
        view = View((3, 3, 35, 35), 32)
        result.append({**name, "image": gray.expand(3, -1, -1), "pseudo_mask": mask, "cluster": i, "view": view})
    return result


def test_it_is_registered(istd_cfg):
    assert "PointSupervisedISTD" in META_ARCH_REGISTRY
    model = build_model(istd_cfg())
    assert isinstance(model, PointSupervisedISTD) and model.has_teacher
    assert build_model(istd_cfg("quick_pal")).scam is None


def test_the_configuration_names_modulated_stages_and_scale(istd_cfg):
    default = build_model(istd_cfg()).scam
    assert (default.stages, default.scale) == ((0, 1, 2), 0.55)
    scam = build_model(istd_cfg(ISTD__SCAM__STAGES=(2, 0), ISTD__SCAM__SCALE=0.2)).scam
    assert (scam.stages, scam.stage_channels, scam.scale) == ((0, 2), (16, 64), 0.2)
    with pytest.raises(ValueError, match="ISTD.SCAM.STAGES .* from 0 to 2"):
        build_model(istd_cfg(ISTD__SCAM__STAGES=(3,)))


def test_without_scam_there_is_one_supervised_loss():
    model, images = make(scam=False, loss="bce_soft_iou"), crops()
    model.network.classifier.block[3].p = 0.0
    losses = model(images)
    batch = model.collect(images)
    logits = model.network(batch.images)
    expected = (bce(logits, batch.targets) + soft_iou(logits, batch.targets)).mean()
    assert list(losses) == ["loss_mask"]
    assert torch.allclose(losses["loss_mask"], expected, atol=1e-6)


def test_soft_pixels_are_no_reward_for_the_binary_region():
    targets = torch.zeros(1, 1, 8, 8)
    targets[..., 2:5, 2:5], targets[..., 5, 2:5] = 1.0, 0.4
    # An IoU of about 0.3: soft-IoU against the soft targets draws the pixels of 0.4 up, against the region down.
    logits = torch.full((1, 1, 8, 8), -1.0, requires_grad=True)
    for loss, sign in ((soft_iou, -1), (lambda x, t: bce_hard_iou(x, t) - bce(x, t), 1)):
        gradient = torch.autograd.grad(loss(logits, targets).sum(), logits)[0]
        assert (gradient[..., 5, 2:5] * sign > 0).all() and (gradient[..., 2:5, 2:5] < 0).all()
    p = 1 / (1 + math.exp(1))
    iou = 9 * p / (55 * p + 9)  # of 9 binary pixels and 64 predicted at p, without smoothing
    assert torch.allclose(bce_hard_iou(logits, targets) - bce(logits, targets), torch.tensor([1 - iou]), atol=1e-6)
    assert torch.allclose(bce_hard_iou(logits, targets * 0), bce_soft_iou(logits, targets * 0), atol=1e-6)


def test_inner_losses_by_hand():
    model, images = make(), crops()
    model.network.classifier.block[3].p = 0.0  # dropout draws anew in each pass
    losses = model(images)
    batch = model.collect(images)
    features = model.network.encoder(batch.images)
    tokens = torch.stack(model._features.vfm(batch.gray / 255))
    teacher = model.network.head(model.scam(tokens, features), (32, 32))[0]
    student = model.network.head(features, (32, 32))[0]
    assert not torch.allclose(teacher, student)
    assert torch.allclose(losses["loss_mask"], bce(teacher, batch.targets).mean(), atol=1e-6)
    assert torch.allclose(losses["loss_distill"], 0.1 * distillation(teacher, student).mean(), atol=1e-7)
    assert losses["loss_gate"].item() == pytest.approx(0.005)


def test_only_the_learner_has_a_gradient():
    model, images = make(), crops()
    student, teacher = model.both_maps(model.collect(images), learner="teacher")
    assert teacher[0].requires_grad and not student[0].requires_grad
    student, teacher = model.both_maps(model.collect(images), learner="student")
    assert student[0].requires_grad and not teacher[0].requires_grad
    sum(model(images).values()).backward()
    missing = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert missing == []


def counters(model) -> list[int]:
    return [int(value) for name, value in model.network.state_dict().items() if name.endswith("num_batches_tracked")]


@pytest.mark.parametrize("name", ["ACM", "GGLNet", "MSHNet", "RepISDNet", "DNANet", "SCTransNet"])
def test_statistics_are_recorded_once_a_step_and_never_in_the_outer_one(name):
    model, images = make(name=name), crops()
    model(images)
    assert set(counters(model)) == {1}
    plain = make(name=name, scam=False)
    plain(images)
    for (name, one), two in zip(model.network.state_dict().items(), plain.network.state_dict().values(), strict=True):
        if "running" in name:
            assert torch.allclose(one, two, atol=1e-6), name  # the student's own, not the modulated features'
    model.both_maps(model.collect(images), learner="student")
    assert set(counters(model)) == {1}


def test_sample_weights_follow_alpha_without_gradient():
    model, images = make(), crops()
    model.network.classifier.block[3].p = 0.0
    model.alpha = torch.tensor([0.0, 0.0])
    even = model(images)["loss_mask"]
    model.alpha = torch.tensor([5.0, -5.0])
    first = model(images)["loss_mask"]
    single = model.both_maps(model.collect(images), learner="teacher")[1][0]
    each = bce(single, model.collect(images).targets)
    low, high = 2**-0.5, 2**0.5  # tanh is 1 in float32, but r is +-5: exp(+-log 2) normalized by their mean 1.25
    assert first.item() == pytest.approx(((each[0] * 2 + each[1] * 0.5) / 1.25 / 2).item(), rel=1e-4)
    assert even.item() == pytest.approx(each.mean().item(), rel=1e-4)
    assert low < first.item() / even.item() < high


def test_the_foundation_model_is_no_part_of_the_model():
    model = make()
    assert not any("vfm" in name or "features" in name for name in model.state_dict())
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"network", "scam"}
    model.train()
    assert not model._features.vfm._model.training


@pytest.mark.parametrize("size", [(96, 135), (33, 64), (31, 17)])
def test_answers_have_the_image_s_own_size(size):
    model = make().eval()
    image = {"image": torch.rand(3, *size) * 255, "file_name": "a.png"}
    answer = model([image, image])
    assert len(answer) == 2
    for key in ("probability", "teacher_probability"):
        assert answer[0][key].shape == size
        assert answer[0][key].min() >= 0 and answer[0][key].max() <= 1
    assert not torch.equal(answer[0]["probability"], answer[0]["teacher_probability"])


def test_who_answers():
    image = {"image": torch.rand(3, 32, 32) * 255, "file_name": "a.png"}
    both = make().eval()([image])[0]
    assert torch.equal(make(answer="student").eval()([image])[0]["probability"], both["probability"])
    assert torch.equal(make(answer="teacher").eval()([image])[0]["probability"], both["teacher_probability"])
    assert list(make(scam=False).eval()([image])[0]) == ["probability"]


def test_averages_answer_and_move():
    model = make(scam=False, averaged=True)
    image = {"image": torch.rand(3, 32, 32) * 255, "file_name": "a.png"}
    before = model.eval()([image])[0]["probability"]
    with torch.no_grad():
        model.network.output_layer().bias += 1
    assert torch.equal(model([image])[0]["probability"], before)
    old = model.average["network"].output_layer().bias.clone()
    model.update_average(0.75)
    assert torch.allclose(model.average["network"].output_layer().bias, old + 0.25)
    model.train()
    assert not model.average.training and not any(p.requires_grad for p in model.average.parameters())


def test_a_network_s_own_file_loads():
    model, other = make(), build_network("ACM", momentum=0.1)
    found = model.load_state_dict(other.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert torch.equal(model.network.state_dict()["stem.1.weight"], other.state_dict()["stem.1.weight"])


@pytest.mark.parametrize("kind", ["network", "without averages", "with averages"])
def test_loaded_weights_answer_in_eval_mode(kind, tmp_path):
    path, image = tmp_path / "w.pth", {"image": torch.rand(3, 32, 32) * 255, "file_name": "a.png"}
    source = make(answer="student", averaged=kind == "with averages")
    with torch.no_grad():
        source.network.output_layer().bias += 1  # its averages, where it has them, stay behind
    if kind == "network":
        save_network(path, source.network, Recipe("ACM"))
    else:
        torch.save({"model": source.state_dict()}, path)
    model = make(answer="student", averaged=True)
    ISTDTrainer.checkpointer_class(model, save_dir=str(tmp_path)).resume_or_load(str(path), resume=False)
    assert torch.equal(model.eval()([image])[0]["probability"], source.eval()([image])[0]["probability"])
    if kind == "without averages":
        assert torch.equal(model.average["scam"].mlp[-1].weight, source.scam.mlp[-1].weight)


def test_a_loss_that_is_not_finite_names_the_image_and_the_term():
    model, images = make(), crops()
    images[1]["pseudo_mask"][0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"loss_mask is not finite for the images image1\.png;"):
        model(images)


def test_wrong_names_are_refused_with_their_key(istd_cfg):
    with pytest.raises(ValueError, match="ISTD.LOSS.MASK"):
        make(loss="dice")
    with pytest.raises(ValueError, match="ISTD.TEST.NETWORK"):
        make(answer="none")
    with pytest.raises(ValueError, match="ISTD.NETWORK.BLOCKS"):
        build_model(istd_cfg(ISTD__NETWORK__BLOCKS=2))
