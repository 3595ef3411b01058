"""Frozen foundation models: token maps, sizes, files, and that they stay out of checkpoints."""

import copy

import pytest
import timm
import torch
from torch import nn

from istd.modeling import build_vfm

TINY = "test_vit"  # timm's own small test model: 6 blocks, 64 channels, /16


@pytest.fixture(scope="module")
def tiny():
    return build_vfm(TINY, "random", layers=7)


@pytest.fixture(scope="module")
def dinov2_file(shared):
    return str(shared / "weights" / "dinov2_vits14_fp16.pth")


@pytest.fixture(scope="module")
def dinov2(dinov2_file):
    return build_vfm("vit_small_patch14_dinov2", dinov2_file)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def normalized(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (x - mean) / std


def hidden_states(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What enters the first block and leaves each, patch tokens as maps: timm's blocks run by hand."""
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(x))
        tokens, rope = (tokens[0], {"rope": tokens[1]}) if isinstance(tokens, tuple) else (tokens, {})
        states = [tokens]
        for block in model.blocks:
            states.append(block(states[-1], **rope))
    h, w = (side // model.patch_embed.patch_size[0] for side in x.shape[-2:])
    return [s[:, model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (h, w)) for s in states]


@pytest.mark.parametrize(
    ("name", "layers"), [(TINY, 7), ("vit_tiny_patch16_dinov3_qkvb", 13), ("vit_small_patch14_reg4_dinov2", 13)]
)
def test_all_hidden_states_with_the_embedding_output(name, layers):
    vfm = build_vfm(name, "random", layers=layers)
    patch = vfm.patch_size
    x = images(2, 3, 2 * patch, 3 * patch)
    states = vfm(x)
    assert len(states) == layers
    assert all(s.shape == (2, vfm.feature_dim, 2, 3) and not s.requires_grad for s in states)
    wanted = hidden_states(vfm._model, normalized(x))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(states, wanted, strict=True))


def test_fewer_layers_are_the_last_ones(tiny):
    x = images(1, 3, 32, 32)
    every = tiny(x)
    for layers in (1, 6):
        some = build_vfm(TINY, "random", layers=layers)(x)
        assert len(some) == layers
        assert all(torch.equal(a, b) for a, b in zip(some, every[-layers:], strict=True))


def test_too_many_layers():
    with pytest.raises(ValueError, match=f"{TINY} has 6 blocks and so 7 hidden states, but 8"):
        build_vfm(TINY, "random", layers=8)


def test_input_is_resized_to_the_patch_grid_and_normalized(tiny):
    x = images(1, 3, 96, 135)
    assert tiny.prepare(x).shape == (1, 3, 96, 128)
    assert tiny(x)[0].shape == (1, 64, 6, 8)
    assert tiny.prepare(images(1, 3, 3, 3)).shape == (1, 3, 16, 16)
    gray = images(2, 1, 32, 32)
    assert torch.equal(tiny.prepare(gray), normalized(gray.repeat(1, 3, 1, 1)))
    bytes_ = (gray * 255).to(torch.uint8)
    assert torch.allclose(tiny.prepare(bytes_), tiny.prepare(bytes_.float() / 255))


def test_sizes_in_turn_leave_no_trace(tiny):
    x = images(1, 3, 48, 32)
    first = tiny(x)
    tiny(images(1, 3, 64, 64))
    assert all(torch.equal(a, b) for a, b in zip(first, tiny(x), strict=True))


def test_stays_frozen_and_out_of_the_network_that_holds_it(tiny):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.vfm = nn.Linear(1, 1), tiny

    holder = Holder().train()
    tiny.train()
    assert not any(module.training for module in tiny._model.modules())
    assert not any(parameter.requires_grad for parameter in tiny._model.parameters())
    assert set(holder.state_dict()) == {"layer.weight", "layer.bias"}
    assert len(list(holder.parameters())) == 2
    assert copy.deepcopy(holder).vfm is tiny


def test_building_leaves_the_random_state_alone_and_repeats(tiny):
    state = torch.random.get_rng_state()
    again = build_vfm(TINY, "random", layers=7)
    assert torch.equal(torch.random.get_rng_state(), state)
    tiny(images(1, 3, 16, 48))
    assert again.fingerprint == tiny.fingerprint
    assert build_vfm("test_vit2", "random", layers=1).fingerprint != tiny.fingerprint


def test_file_of_the_same_model_loads_strictly_and_of_another_does_not(tiny, tmp_path):
    state = {key: value.half() for key, value in tiny.weights().items()}
    for index, content in enumerate((state, {"state_dict": state}, {"model": state})):
        torch.save(content, tmp_path / f"{index}.pth")
        loaded = build_vfm(TINY, str(tmp_path / f"{index}.pth"), layers=7).weights()
        assert all(torch.equal(value, state[key].float()) for key, value in loaded.items())
    wrong = state | {"extra": torch.zeros(1), "cls_token": torch.zeros(1, 1, 3)}
    del wrong["norm.bias"]
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=f"wrong.pth' does not hold the weights of {TINY}: 1 .* 1 .* 1 have"):
        build_vfm(TINY, str(tmp_path / "wrong.pth"), layers=7)
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth' is not a checkpoint .* holds a value of the type list"):
        build_vfm(TINY, str(tmp_path / "list.pth"), layers=7)


def test_errors_name_key_and_model(tmp_path):
    with pytest.raises(ValueError, match="ISTD.VFM.CHECKPOINT is empty: .*test_vit"):
        build_vfm(TINY)
    with pytest.raises(FileNotFoundError, match="ISTD.VFM.CHECKPOINT names the checkpoint 'absent.pth'"):
        build_vfm(TINY, "absent.pth")
    with pytest.raises(ValueError, match="no model 'vit_nothing'"):
        build_vfm("vit_nothing", "random")
    with pytest.raises(ValueError, match="resnet18 is no ViT"):
        build_vfm("resnet18", "random")
    with pytest.raises(ValueError, match="choose one of sam_vit_h, sam_vit_l, sam_vit_b"):
        build_vfm("sam_vit_x", "random")
    with pytest.raises(ValueError, match="has to name its segment-anything file"):
        build_vfm("sam_vit_b", pretrained=True)


def test_pretrained_asks_timm_only_without_a_checkpoint(monkeypatch, tiny):
    asked = []

    def create(name, *, pretrained, **options):
        asked.append(pretrained)
        return original(name, pretrained=False, **options)

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    build_vfm(TINY, layers=7, pretrained=True)
    build_vfm(TINY, "random", layers=7, pretrained=True)
    assert asked == [True, False]


def test_segment_anything_encoder(tmp_path):
    vfm = build_vfm("sam_vit_b", "random")
    encoder = vfm._model
    nn.init.normal_(encoder.pos_embed)
    x = images(1, 3, 40, 70)
    states = vfm(x)
    assert len(states) == 13 and all(s.shape == (1, 768, 2, 4) for s in states)
    with torch.no_grad():
        position = nn.functional.interpolate(
            encoder.pos_embed.permute(0, 3, 1, 2), size=(2, 4), mode="bicubic", align_corners=False
        )
        embedded = encoder.patch_embed(vfm.prepare(x)) + position.permute(0, 2, 3, 1)
        last = embedded
        for block in encoder.blocks:
            last = block(last)
    assert torch.allclose(states[0].permute(0, 2, 3, 1), embedded, atol=1e-5)
    assert torch.allclose(states[-1].permute(0, 2, 3, 1), last, atol=1e-5)
    whole = {f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save(whole | {"mask_decoder.weight": torch.zeros(1)}, tmp_path / "sam.pth")
    loaded = build_vfm("sam_vit_b", str(tmp_path / "sam.pth"), layers=1)
    assert torch.equal(loaded(x)[0], states[-1])


def test_local_dinov2_has_its_position_embedding_resized_without_antialiasing(dinov2, dinov2_file):
    x = images(1, 3, 256, 256)
    states = dinov2(x)
    assert len(states) == 13 and states[0].shape == (1, 384, 18, 18)
    weights = {key: value.float() for key, value in torch.load(dinov2_file, weights_only=True).items()}
    grid = weights["pos_embed"][:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(18, 18), mode="bicubic", align_corners=False)
    weights["pos_embed"] = torch.cat([weights["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=252).eval()
    model.load_state_dict(weights, strict=True)
    wanted = hidden_states(model, dinov2.prepare(x))
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(states, wanted, strict=True))


def test_local_dinov2_sees_a_square(dinov2):
    x = torch.full((1, 3, 126, 126), 0.3)
    x[..., 42:84, 42:84] = 0.9
    tokens = nn.functional.normalize(dinov2(x)[9][0], dim=0)
    inside, outside = tokens[:, 4, 4], tokens[:, 0, 4]
    likeness = torch.einsum("c,chw->hw", inside, tokens)
    assert likeness[3:6, 3:6].mean() > likeness[:2].mean() + 0.2
    assert inside @ outside < 0.8


def test_metas_own_file_of_dinov2(dinov2, tmp_path):
    torch.save(dinov2.weights() | {"mask_token": torch.zeros(1, 384)}, tmp_path / "meta.pth")
    loaded = build_vfm("vit_small_patch14_dinov2", str(tmp_path / "meta.pth"))
    x = images(1, 3, 56, 56)
    assert all(torch.equal(a, b) for a, b in zip(loaded(x), dinov2(x), strict=True))


def test_file_of_another_model(dinov2_file):
    for name in ("vit_small_patch16_dinov3", "sam_vit_b"):
        with pytest.raises(ValueError, match=f"dinov2_vits14_fp16.pth' does not hold the weights of {name}"):
            build_vfm(name, dinov2_file)
