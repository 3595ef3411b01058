"""Mask2Former behind other backbones, ResNet-101 under both students, ImageNet's ResNet-50 in MSRA's names."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from s4m.engine.weights import TeacherStudentCheckpointer


def labeled(size=(64, 64)):
    """An image with one square object."""
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, 8:40, 16:48] = True
    boxes = Boxes(torch.tensor([[16.0, 8.0, 48.0, 40.0]]))
    instances = Instances(size, gt_boxes=boxes, gt_classes=torch.tensor([1]), gt_masks=BitMasks(mask))
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    return {"image": image, "instances": instances, "height": size[0], "width": size[1], "seed": 0}


def check_step(model, batch):
    """Finite losses, a gradient for every trained parameter of the student, and results of the original size."""
    with EventStorage():
        losses = model.train()(batch)
    assert losses and all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.student.named_parameters() if p.requires_grad}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    with torch.no_grad():
        found = model.eval()([{key: batch[0][key] for key in ("image", "height", "width")}])[0]["instances"]
    assert found.pred_masks.shape[1:] == batch[0]["image"].shape[1:]


@pytest.mark.parametrize("name", ["test_convnext", "swin_tiny_patch4_window7_224"])
def test_hierarchical_timm_network_trains(small_cfg, tiny_mask2former, name):
    options = {**tiny_mask2former, "MODEL__BACKBONE__NAME": "build_timm_backbone", "MODEL__TIMM__NAME": name}
    torch.manual_seed(0)
    model = build_model(small_cfg("mask2former_supervised", semi=False, **options))
    assert type(model.student.backbone).__name__ == "TimmBackbone"
    check_step(model, [labeled((50, 70))])
    assert any(p.grad.abs().sum() > 0 for p in model.student.backbone.bottom_up.parameters())


def test_mask_rcnn_says_that_it_needs_a_pyramid(small_cfg):
    options = {"MODEL__BACKBONE__NAME": "build_timm_backbone", "MODEL__TIMM__NAME": "test_convnext"}
    with pytest.raises(ValueError, match="names 'p2', which build_timm_backbone does not give.*a feature pyramid"):
        build_model(small_cfg("supervised", semi=False, **options))
    with pytest.raises(KeyError, match="NoSuchHeads"):
        build_model(small_cfg("supervised", semi=False, MODEL__ROI_HEADS__NAME="NoSuchHeads"))


@pytest.mark.parametrize("config", ["supervised", "mask2former_supervised"])
def test_resnet_101_trains(small_cfg, tiny_mask2former, config):
    options = {**tiny_mask2former, "MODEL__RESNETS__DEPTH": 101, "MODEL__RESNETS__RES2_OUT_CHANNELS": 256}
    torch.manual_seed(0)
    model = build_model(small_cfg(config, semi=False, MODEL__RESNETS__NORM="FrozenBN", **options))
    resnet = getattr(model.student.backbone, "bottom_up", model.student.backbone)
    assert [len(stage) for stage in resnet.stages] == [3, 4, 23, 3]
    check_step(model, [labeled()])


def msra_name(name):
    """What MSRA's files call a parameter of Detectron2's ResNet."""
    layer, _, kind = name.replace(".norm.", ".norm_").rpartition(".")
    suffix = {"weight": "w", "norm_weight": "bn_s", "norm_bias": "bn_b"}[kind]
    if layer == "stem.conv1":
        return f"{'res_' * (suffix != 'w')}conv1_{suffix}"
    stage, block, part = layer.split(".")
    branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[part]
    return f"{stage}_{block}_branch{branch}_{suffix}"


@pytest.mark.parametrize("semi", [True, False])
def test_imagenet_weights_in_msras_names_go_to_the_student(small_cfg, tiny_mask2former, tmp_path, semi):
    options = {**tiny_mask2former, "MODEL__RESNETS__DEPTH": 50, "MODEL__RESNETS__RES2_OUT_CHANNELS": 256}
    model = build_model(
        small_cfg("mask2former_stage2", semi=semi, MODEL__RESNETS__NORM="FrozenBN", **options)
    )
    state = {key: value for key, value in model.student.backbone.state_dict().items() if "running" not in key}
    wanted = {key: torch.rand_like(value) for key, value in state.items() if "num_batches" not in key}
    arrays = {msra_name(key): value.numpy() for key, value in wanted.items()}
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch1_w", "res5_2_branch2c_bn_b"} <= arrays.keys()
    others = {"fc1000_w": np.zeros((2, 2), np.float32), "conv1_w_momentum": np.zeros(3, np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({**arrays, **others}, protocol=2))
    head = {key: value.clone() for key, value in model.student.head.state_dict().items()}
    TeacherStudentCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    for network in [model.student, model.teacher] if semi else [model.student]:
        found = network.backbone.state_dict()
        assert [key for key, value in wanted.items() if not torch.equal(found[key], value)] == []
    assert all(torch.equal(value, head[key]) for key, value in model.student.head.state_dict().items())
