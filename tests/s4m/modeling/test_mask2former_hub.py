"""Mask2Former from folders in the hub's layout: outputs of transformers, other classes, what is refused."""

import json

import pytest
import safetensors.torch
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig


def build(small_cfg, folder, **options):
    """A model from a folder in the hub's layout, on images normalized as its backbone expects."""
    pixels = {"MODEL__PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL__PIXEL_STD": [58.395, 57.12, 57.375]}
    options = {"INPUT__FORMAT": "RGB", **pixels, "MODEL__MASK2FORMER__PRETRAINED": str(folder), **options}
    torch.manual_seed(0)
    return build_model(small_cfg("mask2former_stage2", **options))


def labeled(size):
    """An image with one object."""
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, 8:40, 16:48] = True
    instances = Instances(size, gt_classes=torch.tensor([1]), gt_masks=BitMasks(mask))
    return {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8), "instances": instances, "seed": 0}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A small model in the hub's layout, with random weights, and its folder."""
    torch.manual_seed(2)
    swin = SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        dim_feedforward=32, encoder_layers=1, decoder_layers=3, num_attention_heads=4, num_queries=7, num_labels=5,
        train_num_points=64,
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config).eval()
    folder = tmp_path_factory.mktemp("hub")
    model.save_pretrained(folder)
    return model, folder


ENCODER = "model.pixel_level_module.encoder"
UNUSED = [f"{ENCODER}.swin.layernorm.{kind}" for kind in ("weight", "bias")]


def write_as_published(folder, output, without=()):
    """The model as the files of facebook/mask2former-swin-* hold it: without Swin's last norm, with old buffers."""
    (output / "config.json").write_bytes((folder / "config.json").read_bytes())
    state = safetensors.torch.load_file(folder / "model.safetensors")
    for key in [*UNUSED, *without]:
        del state[key]
    attentions = [key.removesuffix("_bias_table") for key in state if key.endswith("relative_position_bias_table")]
    assert len(attentions) == 4
    state |= {f"{key}_index": torch.zeros(16, 16, dtype=torch.int64) for key in attentions}
    safetensors.torch.save_file(state, output / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["safetensors", "bin", "published"])
def test_checkpoint_of_the_hub_gives_the_outputs_of_transformers(hub, tmp_path, kind, small_cfg):
    theirs, folder = hub
    if kind == "bin":
        (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
        folder = tmp_path
    elif kind == "published":
        write_as_published(folder, tmp_path)
        folder = tmp_path
    ours = build(small_cfg, folder, MODEL__META_ARCHITECTURE="S4MMask2Former").eval()
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted = theirs(pixels, output_auxiliary_logits=True)
        features = ours.backbone(pixels)
        found = ours.head([features[name] for name in ours.in_features])
    torch.testing.assert_close(found.class_logits[-1], wanted.class_queries_logits)
    torch.testing.assert_close(found.mask_logits[-1], wanted.masks_queries_logits)
    torch.testing.assert_close(found.pixel_features, wanted.pixel_decoder_last_hidden_state)
    for i, layer in enumerate(wanted.auxiliary_logits):
        torch.testing.assert_close(found.class_logits[i], layer["class_queries_logits"])
        torch.testing.assert_close(found.mask_logits[i], layer["masks_queries_logits"])


def test_checkpoint_of_the_hub_trains_on_other_classes(hub, small_cfg):
    theirs, folder = hub
    model = build(small_cfg, folder, MODEL__ROI_HEADS__NUM_CLASSES=7)
    student = model.student
    assert student.head.class_predictor.out_features == 8
    queries = theirs.model.transformer_module.queries_features.weight
    assert torch.equal(student.head.transformer_module.queries_features.weight, queries)
    assert torch.equal(model.teacher.head.class_predictor.weight, student.head.class_predictor.weight)
    losses = model.train()({"labeled": [labeled((50, 64))], "unlabeled": []})
    assert losses.keys() == {"loss_class", "loss_mask", "loss_dice"}
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in student.named_parameters() if p.requires_grad}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    assert any(p.grad.abs().sum() > 0 for p in student.backbone.bottom_up.parameters())


def test_other_weights_that_lack_are_named(hub, tmp_path, small_cfg):
    norm = f"{ENCODER}.hidden_states_norms.stage4.weight"
    write_as_published(hub[1], tmp_path, without=[norm])
    with pytest.raises(ValueError, match=f"PRETRAINED: '{tmp_path}' lacks 1 weights, as '{norm}'"):
        build(small_cfg, tmp_path)


def test_weights_of_another_shape_are_named(hub, tmp_path, small_cfg):
    theirs, _ = hub
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "encoder_feedforward_dim": 48, "num_queries": 9}))
    found = f"PRETRAINED: '{tmp_path}' holds 5 weights of another shape .*fc1.weight.*queries_features.weight"
    with pytest.raises(ValueError, match=found):
        build(small_cfg, tmp_path, MODEL__ROI_HEADS__NUM_CLASSES=7)


@pytest.mark.parametrize(
    "options",
    [
        {"INPUT__FORMAT": "BGR"},
        {"MODEL__PIXEL_STD": [1.0, 1.0, 1.0]},
        {"MODEL__PIXEL_MEAN": [103.53, 116.28, 123.675]},
    ],
    ids=["bgr", "std", "mean"],
)
def test_hub_checkpoint_wants_rgb_by_imagenets_statistics(hub, options, small_cfg):
    with pytest.raises(ValueError, match="^MODEL.MASK2FORMER.PRETRAINED needs INPUT.FORMAT RGB, with MODEL.PIXEL_MEAN"):
        build(small_cfg, hub[1], **options)


def test_folder_that_holds_no_mask2former_is_named(tmp_path, small_cfg):
    def make():
        build(small_cfg, tmp_path, MODEL__META_ARCHITECTURE="S4MMask2Former")

    with pytest.raises(FileNotFoundError, match=f"MODEL.MASK2FORMER.PRETRAINED names '{tmp_path}'"):
        make()
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    with pytest.raises(ValueError, match="PRETRAINED: .*config.json' describes a swin"):
        make()
    (tmp_path / "config.json").write_text('{"model_type": "mask2former"}')
    with pytest.raises(ValueError, match=f"PRETRAINED: '{tmp_path}' does not load"):
        make()
