"""timm backbones: strides and names, any image size, which weights train and which are kept, rates by depth."""

import copy

import pytest
import timm
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes

from d2kit.vit import build_timm_vit
from s4m import add_s4m_config
from s4m.engine.optimizer import build_optimizer
from s4m.modeling.vit_backbone import ViTTokens


def vit_cfg(name="build_vit_backbone", **options):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.INPUT.FORMAT, cfg.MODEL.DEVICE = name, "RGB", "cpu"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    cfg.MODEL.VIT.NAME, cfg.MODEL.VIT.CHECKPOINT, cfg.MODEL.VIT.OUT_CHANNELS = "vit_tiny_patch16_224", "random", 32
    cfg.merge_from_list([item for key, value in options.items() for item in (f"MODEL.{key}".replace("__", "."), value)])
    return cfg


def build(**options):
    torch.manual_seed(0)
    return build_backbone(vit_cfg(**options))


@pytest.mark.parametrize(("stride", "last"), [(16, 6), (8, 5)])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit", "vit_small_plus_patch16_dinov3"])
def test_maps_have_the_strides_of_their_names(stride, last, name):
    backbone = build(VIT__STRIDE=stride, VIT__NAME=name)
    shape = backbone.output_shape()
    assert list(shape) == [f"p{level}" for level in range(2, last + 1)]
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 96))
    for name, spec in shape.items():
        assert spec.stride == 2 ** int(name[1:]) and spec.channels == 32
        assert maps[name].shape == (2, 32, -(-64 // spec.stride), -(-96 // spec.stride))


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("size", [(50, 70), (175, 175), (64, 96)])
def test_cells_lie_where_their_stride_says_at_any_size(small_cfg, stride, size):
    options = {"MODEL__VIT__NAME": "test_vit", "MODEL__VIT__CHECKPOINT": "random", "MODEL__VIT__LAYER": -1}
    cfg = small_cfg("vit_supervised", semi=False, MODEL__VIT__STRIDE=stride, **options)
    levels = [f"p{level}" for level in range(2, 6)]
    cfg.merge_from_list(["MODEL.RPN.IN_FEATURES", levels, "MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [96]]])
    student = build_model(cfg).student
    images = student.preprocess_image([{"image": torch.zeros(3, *size)}])
    assert images.image_sizes == [size]
    features, shape = student.backbone(images.tensor), student.backbone.output_shape()
    for name in list(shape)[:-1]:  # the last one is every second cell of the one before
        assert [cells * shape[name].stride for cells in features[name].shape[-2:]] == list(images.tensor.shape[-2:])


def test_sides_between_the_strides_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 16, not \(40, 36\)"):
        build(VIT__NAME="test_vit")(torch.zeros(1, 3, 40, 36))


def test_patches_of_14_pixels_stand_for_the_stride():
    model = build_timm_vit("vit_tiny_patch16_224")
    tokens = ViTTokens(model, 2)
    with torch.no_grad():
        assert tokens(torch.randn(1, 3, 48, 80)).shape == (1, 192, 3, 5)
    backbone = build(VIT__NAME="test_vit", VIT__STRIDE=8)
    assert backbone.net.patch == 16
    with torch.no_grad():
        assert backbone.net(torch.randn(1, 3, 24, 40))["tokens"].shape[-2:] == (3, 5)


def test_tokens_of_a_layer_are_those_of_timm():
    model = build_timm_vit("vit_tiny_patch16_224").eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        wanted = model.forward_intermediates(images, indices=[3], intermediates_only=True, output_fmt="NLC")[0]
        tokens = ViTTokens(copy.deepcopy(model), 3)
        found = tokens(images).flatten(2).transpose(1, 2)
        again = ViTTokens(model, -9)(images).flatten(2).transpose(1, 2)
        assert tokens(images[..., :48, :80]).shape == (2, 192, 3, 5)  # another size after the native one
        assert torch.equal(tokens(images).flatten(2).transpose(1, 2), found)
    assert [name for name, _ in tokens.named_parameters() if name.endswith("pos_embed")] == ["pos_embed"]
    torch.testing.assert_close(found, torch.nn.functional.layer_norm(wanted, (192,)))
    assert torch.equal(found, again) and len(tokens.model.blocks) == 4


def test_position_embedding_is_resampled_without_antialiasing():
    model = build_timm_vit("test_vit").eval()
    torch.nn.init.normal_(model.pos_embed)
    native, prefix = model.patch_embed.grid_size, model.num_prefix_tokens
    position = model.pos_embed.detach().clone()
    tokens, seen = ViTTokens(model, -1), []
    model.norm_pre.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        tokens(torch.zeros(1, 3, 32, 48))
        patches = model.patch_embed(torch.zeros(1, 3, 32, 48)).flatten(1, 2)
    grid = position[:, prefix:].unflatten(1, native).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, (2, 3), mode="bicubic", align_corners=False, antialias=False)
    torch.testing.assert_close(seen[0][:, prefix:] - patches, wanted.flatten(2).transpose(1, 2))


def test_frozen_vit_is_in_no_checkpoint_and_takes_no_gradient():
    backbone = build().train()
    assert all(key.startswith("simfp_") for key in backbone.state_dict())
    assert not backbone.net.network.training and not any(p.requires_grad for p in backbone.net.network.parameters())
    sum(value.sum() for value in backbone(torch.randn(1, 3, 32, 32)).values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())
    assert all(p.grad is None for p in backbone.net.network.parameters())
    other = build()
    assert torch.equal(other.net.network.pos_embed, backbone.net.network.pos_embed)


def test_trained_vit_uses_every_weight_and_copies():
    backbone = build(VIT__FROZEN=False, VIT__LAYER=4).train()
    sum(value.square().sum() for value in backbone(torch.randn(1, 3, 32, 64)).values()).backward()
    names = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert names == [] and "net.network.pos_embed" in dict(backbone.named_parameters())
    assert backbone.net.network.pos_embed.grad.abs().sum() > 0
    twin = copy.deepcopy(backbone)
    twin.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        a, b = (network.eval()(torch.ones(1, 3, 64, 32))["p2"] for network in (backbone, twin))
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_plus_patch16_dinov3"])
def test_rate_decays_from_block_to_block(name):
    cfg = vit_cfg(VIT__FROZEN=False, VIT__LAYER=2, VIT__NAME=name)
    cfg.SOLVER.BASE_LR, cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0, 0.5, 0.1
    model = torch.nn.ModuleDict({"student": torch.nn.ModuleDict({"backbone": build_backbone(cfg)})})
    names = {id(p): name.removeprefix("student.backbone.") for name, p in model.named_parameters()}
    optimizer = build_optimizer(cfg, model)
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates["net.network.model.blocks.2.attn.qkv.weight"] == pytest.approx(0.05)
    assert rates["net.network.model.blocks.0.attn.qkv.weight"] == pytest.approx(0.0125)
    before = {key for key in rates if key.startswith("net.") and "blocks." not in key}
    position = "pos_embed" if "tiny" in name else "model.reg_token"
    assert before >= {f"net.network.{key}" for key in ("model.cls_token", position, "model.patch_embed.proj.weight")}
    assert [rates[key] for key in before] == pytest.approx([0.1 * 0.5**4] * len(before))
    assert rates["simfp_3.0.weight"] == 1.0


@pytest.mark.parametrize("name", ["test_convnext", "swin_tiny_patch4_window7_224"])
def test_hierarchical_network(name, tmp_path):
    whole = timm.create_model(name, num_classes=3)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = build(name="build_timm_backbone", TIMM__NAME=name, TIMM__CHECKPOINT=str(tmp_path / "weights.pth"))
    with torch.no_grad():
        maps = backbone.eval()(torch.randn(1, 3, 64, 96))
    for key, spec in backbone.output_shape().items():
        assert maps[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
    state = whole.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in backbone.bottom_up.state_dict().items())


@pytest.mark.parametrize("frozen", [True, False])
def test_weights_of_a_file_are_the_networks(tmp_path, frozen):
    whole = timm.create_model("test_vit", num_classes=0).eval()
    torch.nn.init.normal_(whole.cls_token)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = build(VIT__NAME="test_vit", VIT__CHECKPOINT=str(tmp_path / "weights.pth"), VIT__FROZEN=frozen)
    state, images = whole.state_dict(), torch.randn(1, 3, *whole.patch_embed.img_size)
    found = {key.removeprefix("model."): value for key, value in backbone.net.network.state_dict().items()}
    assert {"cls_token", "pos_embed", "blocks.0.attn.qkv.weight"} <= found.keys()
    assert all(torch.equal(value, state[key]) for key, value in found.items())
    with torch.no_grad():
        wanted = whole.forward_intermediates(images, indices=1, intermediates_only=True, output_fmt="NLC")[0]
        tokens = backbone.net.network.eval()(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, torch.nn.functional.layer_norm(wanted, wanted.shape[2:]))


def test_bad_keys_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="MODEL.VIT.CHECKPOINT names the checkpoint 'no.pth'"):
        build(VIT__CHECKPOINT="no.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth' does not hold the weights of vit_tiny_patch16_224"):
        build(VIT__CHECKPOINT=str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="MODEL.VIT.STRIDE must be 8 or 16, not 14"):
        build(VIT__STRIDE=14)
    with pytest.raises(ValueError, match="MODEL.VIT.LAYER is 12, but the network has 12 blocks"):
        build(VIT__LAYER=12)
    with pytest.raises(ValueError, match="timm has no model 'vit_of_tomorrow'"):
        build(VIT__NAME="vit_of_tomorrow")
    with pytest.raises(ValueError, match="MODEL.TIMM.NAME: timm has no model 'swin_of_tomorrow'"):
        build(name="build_timm_backbone", TIMM__NAME="swin_of_tomorrow")


@pytest.mark.parametrize(
    ("key", "value"),
    [("INPUT.FORMAT", "BGR"), ("MODEL.PIXEL_STD", [1.0] * 3), ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675])],
)
def test_images_are_rgb_by_imagenets_statistics(key, value):
    cfg = vit_cfg()
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match="^build_vit_backbone needs INPUT.FORMAT RGB, with MODEL.PIXEL_MEAN"):
        build_backbone(cfg)
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.CHECKPOINT", "any.pth"])
    with pytest.raises(ValueError, match="^build_timm_backbone needs INPUT.FORMAT RGB, with MODEL.PIXEL_MEAN"):
        build_backbone(cfg)


def test_dinov2_weights_serve_both_students(shared, small_cfg):
    weights = str(shared / "weights" / "dinov2_vits14_fp16.pth")
    overlay = {"file": weights, "custom_load": False}
    theirs = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
    ).eval()
    images = torch.randn(1, 3, 518, 518)
    with torch.no_grad():
        wanted = theirs.forward_intermediates(images, indices=[1], intermediates_only=True, output_fmt="NCHW")[0]
    wanted = torch.nn.functional.layer_norm(wanted.permute(0, 2, 3, 1), (384,)).permute(0, 3, 1, 2)
    for config in ("vit_supervised", "vit_mask2former_supervised"):
        cfg = small_cfg(config, semi=False, MODEL__VIT__CHECKPOINT=weights, MODEL__VIT__LAYER=1)
        model = build_model(cfg).eval()
        assert model.student.backbone.net.patch == 14
        network = model.student.backbone.net.network
        for ours, block in zip(network.model.blocks, theirs.blocks, strict=False):
            assert torch.equal(ours.attn.qkv.weight, block.attn.qkv.weight) and torch.equal(
                ours.ls1.gamma, block.ls1.gamma
            )
        for name in ("cls_token", "patch_embed.proj.weight"):
            assert torch.equal(network.model.get_parameter(name), theirs.get_parameter(name))
        assert torch.equal(network.pos_embed, theirs.pos_embed) and len(network.model.blocks) == 2
        with torch.no_grad():
            torch.testing.assert_close(network(images), wanted)
            found = model([{"image": torch.zeros(3, 50, 70, dtype=torch.uint8), "height": 50, "width": 70}])[0]
        assert isinstance(found["instances"].pred_boxes, Boxes) and found["instances"].image_size == (50, 70)
        assert not any("blocks" in key for key in model.state_dict())
