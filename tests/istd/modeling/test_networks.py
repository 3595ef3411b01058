"""The networks: parameter shapes, encoder and head, any input size, BatchNorm's record."""

from collections import Counter

import pytest
import torch
from torch import nn

from istd.modeling import NETWORK_REGISTRY, build_network, frozen_statistics
from istd.modeling.backbones import Network
from istd.modeling.backbones.acm import AsymmetricFusion
from istd.modeling.backbones.alclnet import GatedFusion
from istd.modeling.backbones.blocks import DownResidual, Residual, basic_stage, two_convs
from istd.recipe import pad_to_multiple

# name, options -> parameters, tensors of the state dict
TABLE = [
    ("ALCLNet", {}, 5_668_145, 332),
    ("MLCLNet", {}, 657_249, 206),
    ("ACM", {}, 397_971, 267),
    ("ACM", {"in_channels": 1, "norm": "BN"}, 397_823, 297),
    ("ALCNet", {}, 520_037, 329),
    ("ALCNet", {"in_channels": 1, "norm": "BN"}, 519_889, 359),
    ("GGLNet", {}, 8_988_093, 500),
    ("MSHNet", {}, 4_065_513, 340),
    ("DNANet", {}, 4_696_888, 570),
    ("DNANet", {"in_channels": 1}, 4_696_568, 570),
    ("SCTransNet", {}, 11_326_579, 510),
    ("RepISDNet", {}, 558_497, 216),  # published with two outputs, 33 parameters more
    ("RepISDNet", {"merged": True}, 279_073, 60),
]
NAMES = ["ALCLNet", "MLCLNet", "ACM", "ALCNet", "GGLNet", "MSHNet", "RepISDNet", "DNANet", "SCTransNet"]
# Logit maps in training.
MAPS = dict.fromkeys(NAMES, 1) | {"MSHNet": 5, "DNANet": 4, "SCTransNet": 6}
# Parts of published networks that take no part in the forward pass.
UNUSED = {"ALCNet": {"uplayer1", "uplayer2"}, "SCTransNet": {"positions", "unused"}}


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    torch.manual_seed(0)
    return {name: build_network(name).eval() for name in NAMES}


@pytest.mark.parametrize(("name", "options", "parameters", "tensors"), TABLE)
def test_parameter_and_tensor_counts(name, options, parameters, tensors):
    network = build_network(name, **options)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors


def test_shapes_of_alclnet():
    shapes = Counter(tuple(p.shape) for p in build_network("ALCLNet").parameters() if p.ndim == 4)
    # Stage of width 32: first and second convolution and the side path of D, four of two R blocks, the LCL's conv3.
    assert shapes[32, 16, 3, 3] == 2
    assert shapes[32, 32, 3, 3] == 1 + 4 + 1
    assert shapes[256, 256, 3, 3] == 1 + 4 + 1
    assert shapes[128, 256, 1, 1] == 1 and shapes[1, 16, 1, 1] == 1


def test_shapes_of_mlclnet():
    shapes = Counter(tuple(p.shape) for p in build_network("MLCLNet").parameters() if p.ndim == 4)
    assert shapes[16, 16, 5, 5] == shapes[32, 32, 5, 5] == shapes[64, 64, 5, 5] == 1
    assert shapes[64, 192, 1, 1] == shapes[32, 96, 1, 1] == shapes[16, 48, 1, 1] == 1
    assert shapes[64, 16, 1, 1] == shapes[64, 32, 1, 1] == 1


def test_small_mlclnet_has_two_blocks_a_stage():
    base, small = (sum(p.numel() for p in build_network("MLCLNet", blocks=n).parameters()) for n in (3, 2))
    block = sum(2 * (9 * c * c + c) + 4 * c for c in (16, 32, 64))
    assert base - small == block


@pytest.mark.parametrize("name", ["ACM", "ALCNet"])
@pytest.mark.parametrize("scheme", ["full", "LESPS_centroid", "LESPS_coarse"])
def test_published_checkpoints_load_strictly(shared, name, scheme):
    path = shared / "data" / "lesps_checkpoints" / f"{name}_{scheme}.pth.tar"
    published = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    state = {key.removeprefix("model."): value for key, value in published.items()}
    network = build_network(name, in_channels=1, norm="BN")
    network.load_state_dict(state, strict=True)
    assert Counter(v.shape for v in network.state_dict().values()) == Counter(v.shape for v in published.values())
    assert torch.equal(network.output_layer().weight, state["head.block.4.weight"])
    assert torch.equal(network.stem[1].weight, state["stem.1.weight"])
    assert "head.block.4.weight" in state, "the caller's dict is left as it was"


def test_published_names_load_inside_another_module():
    holder = nn.ModuleDict({"network": build_network("ACM")})
    state = {key.replace("classifier.", "head."): value + 1 for key, value in holder.state_dict().items()}
    holder.load_state_dict(state, strict=True)
    assert torch.equal(holder["network"].output_layer().bias, state["network.head.block.4.bias"])


@pytest.mark.parametrize("name", NAMES)
def test_encoder_and_head(networks, name):
    network = networks[name]
    features = network.encoder(torch.randn(2, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(network.stage_channels, network.strides, strict=True)
    ]
    maps = network.head(features)
    assert isinstance(maps, list) and maps[0].shape == (2, 1, 64, 96)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(96, 135), (1, 1), (17, 50)])
def test_any_input_size_is_zero_padded_at_bottom_and_right(networks, name, size):
    network = networks[name]
    x = torch.randn(1, 3, *size)
    logits = network(x)
    padded = torch.zeros(1, 3, *(-(-side // network.multiple) * network.multiple for side in size))
    padded[..., : size[0], : size[1]] = x
    assert logits.shape == (1, 1, *size)
    assert torch.equal(logits, network.head(network.stages(padded))[0][..., : size[0], : size[1]])
    assert torch.equal(logits, network.head(network.encoder(x), size)[0])


@pytest.mark.parametrize("name", [name for name in NAMES if MAPS[name] > 1])
def test_deep_supervision(networks, name):
    network = networks[name]
    features = network.encoder(torch.randn(1, 3, 32, 64))
    finest = network.head(features)[0]
    network.train()
    with frozen_statistics(network):
        maps = network.head(features, (20, 50))
    network.eval()
    sides = [tuple(logits.shape[2:]) for logits in maps]
    scaled = [(20, 50), (10, 25), (5, 13), (3, 7)]
    assert sides == ([(20, 50), *scaled] if name == "MSHNet" else [(20, 50)] * MAPS[name])
    assert torch.equal(network.head(features)[0], finest), "the head leaves the features as they are"


class TwoMaps(Network):
    stage_channels, strides, multiple, modulation_scale = (3,), (1,), 4, 0.1

    def stages(self, x):
        return [x]

    def decode(self, features):
        fine = features[0][:, :1]
        return [fine, nn.functional.avg_pool2d(fine, 4)]


def test_head_crops_each_map_to_its_share():
    network = TwoMaps()
    x = torch.randn(1, 3, 9, 6)
    fine, coarse = network.head(network.encoder(x), (9, 6))
    assert torch.equal(fine, x[:, :1])
    assert coarse.shape == (1, 1, 3, 2)


@pytest.mark.parametrize("name", NAMES)
def test_every_trainable_parameter_gets_a_gradient(name):
    network = build_network(name).train()
    sum(logits.square().mean() for logits in network.head(network.encoder(torch.randn(2, 3, 32, 32)))).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    unused = UNUSED.get(name, set())
    for parameter_name, parameter in network.named_parameters():
        assert parameter.requires_grad != bool(unused & set(parameter_name.split("."))), parameter_name


def test_batchnorm_momentum_as_published():
    momentum = {
        n: m.momentum for n, m in build_network("ACM", norm="BN").named_modules() if isinstance(m, nn.BatchNorm2d)
    }
    slow = {n for n, value in momentum.items() if value == 0.1}
    assert slow and all(n.split(".")[-1] in ("bn1", "bn2") for n in slow)
    assert all(value == 0.9 for n, value in momentum.items() if n not in slow)
    assert {"stem.0", "layer2.0.downsample.1", "fuse2.post.1", "classifier.block.1"} <= momentum.keys() - slow


def test_batch_of_one_trains_with_group_norm_and_raises_with_batch_norm():
    x = torch.randn(1, 3, 32, 32)
    assert build_network("ACM", norm="GN").train()(x).isfinite().all()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        build_network("ACM", norm="BN").train()(x)


def test_initialization_of_the_alcl_family():
    torch.manual_seed(0)
    alcl, mlcl = build_network("ALCLNet"), build_network("MLCLNet")
    convs = [m for m in alcl.modules() if isinstance(m, nn.Conv2d)]
    assert all(not conv.bias.any() for conv in convs)
    deep = alcl.stage.resnet5_2.layer[0].weight
    assert deep.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert not mlcl.stage.layer1[0].bias.any() and mlcl.laterals[0][0].bias.any() and mlcl.output_layer().bias.any()


@pytest.mark.parametrize("name", NAMES)
def test_output_bias(name):
    network = build_network(name, output_bias=-4.0)
    assert [layer.bias.item() for layer in (network.output_layer(), *network.side_layers())] == [-4.0] * MAPS[name]


def test_unknown_names_are_one_sentence():
    with pytest.raises(ValueError, match="'UNet': choose one of ACM, ALCLNet, ALCNet, DNANet, GGLNet"):
        build_network("UNet")
    with pytest.raises(ValueError, match="norm 'LN'"):
        build_network("ACM", norm="LN")
    assert {name for name, _ in NETWORK_REGISTRY} >= set(NAMES)


def test_residual_blocks_by_hand():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    plain = Residual(two_convs(4, 4))
    a, bn_a, _, b, bn_b = plain.layer
    assert torch.allclose(plain(x), (bn_b(b(bn_a(a(x)).clamp(min=0))) + x).clamp(min=0))
    down = DownResidual(4, 8)
    a, bn_a, _, pool, b, bn_b = down.layer1
    side = down.layer2[1](down.layer2[0](x)).clamp(min=0)
    main = bn_b(b(pool(bn_a(a(x)).clamp(min=0))))
    assert torch.allclose(down(x), (main + side).clamp(min=0)) and down(x).shape == (2, 8, 3, 3)
    (basic,) = basic_stage(4, 8, 1, stride=2)
    main = basic.bn2(basic.conv2(basic.bn1(basic.conv1(x)).clamp(min=0)))
    assert torch.allclose(basic(x), (main + basic.downsample(x)).clamp(min=0)) and basic.conv1.bias is None


def test_fusions_by_hand():
    torch.manual_seed(0)
    fusion = AsymmetricFusion(8, "GN", 0.9).eval()
    deep, shallow = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    top = fusion.topdown[1:](deep.mean((2, 3), keepdim=True))
    both = 2 * shallow * top + 2 * deep * fusion.bottomup(shallow)
    assert top.shape == (2, 8, 1, 1) and top.min() > 0 and top.max() < 1
    assert torch.allclose(fusion(deep, shallow), fusion.post(both), atol=1e-6)
    gated = GatedFusion(8, 4).eval()
    deep, shallow = torch.randn(1, 8, 2, 2), torch.randn(1, 4, 4, 4)
    enlarged = nn.functional.interpolate(deep, size=(4, 4), mode="bilinear", align_corners=True)
    high = gated.hl_layer[1:](enlarged)
    assert high.min() >= 0
    assert torch.allclose(gated(deep, shallow), shallow + high * gated.ll_layer(shallow).sigmoid(), atol=1e-6)


def statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items() if "running" in key or "tracked" in key}


def test_frozen_statistics_record_nothing_and_change_no_output():
    torch.manual_seed(0)
    network = build_network("MLCLNet").train()
    x = torch.randn(2, 3, 16, 16)
    before = statistics(network)
    with frozen_statistics(network):
        quiet = network(x)
    assert all(torch.equal(value, before[key]) for key, value in statistics(network).items())
    loud = network(x)
    assert torch.equal(quiet, loud), "the batch's own statistics normalize in both passes"
    after = statistics(network)
    assert all(not torch.equal(after[key], before[key]) for key in before)
    network.eval()
    with frozen_statistics(network):
        assert torch.equal(network(x), network(x)) and not torch.equal(network(x), loud)


def test_frozen_statistics_end_with_an_error():
    network = build_network("ACM", norm="BN").train()
    with pytest.raises(KeyError), frozen_statistics(network):
        raise KeyError
    before = statistics(network)
    network(torch.randn(2, 3, 32, 32))
    assert not torch.equal(statistics(network)["stem.0.running_mean"], before["stem.0.running_mean"])


def test_pad_to_multiple():
    x = torch.ones(1, 1, 32, 33)
    assert pad_to_multiple(x, 32).shape[-2:] == (32, 64)
    assert pad_to_multiple(x, 32, always=True).shape[-2:] == (64, 64)
    assert pad_to_multiple(x, 32).sum() == x.sum() and pad_to_multiple(x, 1) is x
