"""How a new head of Mask2Former is drawn, module by module, as its authors draw it."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from torch import nn

from s4m.config import add_s4m_config
from s4m.modeling.mask2former_head import build_head

HIDDEN = 64


@pytest.fixture(scope="module")
def head():
    cfg = get_cfg()
    add_s4m_config(cfg)
    node = cfg.MODEL.MASK2FORMER
    node.HIDDEN, node.HEADS, node.QUERIES, node.ENCODER_LAYERS, node.DECODER_LAYERS = HIDDEN, 4, 30, 2, 2
    node.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    torch.manual_seed(0)
    return build_head(cfg, {f"res{i}": ShapeSpec(channels=32 * i, stride=2**i) for i in range(2, 6)})


def xavier(weight: torch.Tensor) -> float:
    return math.sqrt(2 / sum(weight.shape))


def test_attention_of_the_encoder_starts_on_a_ring_around_each_place(head):
    for layer in head.pixel_decoder.encoder.layers:
        attention = layer.self_attn
        offsets = attention.sampling_offsets.bias.view(attention.n_heads, attention.n_levels, attention.n_points, 2)
        radius = offsets.abs().amax(-1)
        assert torch.allclose(radius, torch.arange(1.0, attention.n_points + 1).expand_as(radius), atol=1e-4)
        directions = {tuple(v) for v in (offsets[:, 0, 0] * 10).round().tolist()}
        assert len(directions) == attention.n_heads
        assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()


def test_layers_of_both_transformers_are_xaviers(head):
    layers = [*head.pixel_decoder.encoder.layers, *head.transformer_module.decoder.layers]
    seen = 0
    for layer in layers:
        for name, weight in layer.named_parameters():
            if weight.dim() > 1 and "sampling_offsets" not in name and "attention_weights" not in name:
                assert weight.std().item() == pytest.approx(xavier(weight), rel=0.1), name
                seen += 1
    assert seen == 2 * 4 + 2 * 8


def test_predictors_are_drawn_as_torch_draws_linear_layers(head):
    embedder = head.transformer_module.decoder.mask_predictor.mask_embedder
    linear = [m for m in embedder.modules() if isinstance(m, nn.Linear)] + [head.class_predictor]
    assert len(linear) == 4
    for module in linear:
        bound = 1 / math.sqrt(HIDDEN)
        assert 0.95 * bound < module.weight.abs().max() <= bound and 0 < module.bias.abs().max() <= bound


def test_convolutions_keep_the_size_of_their_input(head):
    convolutions = [m for m in head.pixel_decoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 6
    for module in convolutions:
        assert module.weight.std().item() * math.sqrt(module.weight[0].numel()) == pytest.approx(1, rel=0.1)


def test_queries_differ_from_the_start(head):
    """Where they do not, all give one mask, and matching them to objects teaches nothing."""
    features = [
        torch.randn(1, 32 * i, 2 ** (8 - i), 2 ** (8 - i), generator=torch.Generator().manual_seed(i))
        for i in range(2, 6)
    ]
    with torch.no_grad():
        masks = head.eval()(features).mask_logits[-1][0].flatten(1)
    assert 0.2 < masks.std() < 10 and (masks - masks.mean(0)).std() > 0.1
