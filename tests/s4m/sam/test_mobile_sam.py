"""MobileSAM: its checkpoint's layout, and its encoder against one written by hand from the weights in that layout."""

import pytest
import torch
from torch.nn import functional as F

from s4m.sam import build_segmenter, mobile_sam
from s4m.sam.mobile_sam import build_mobile_sam, convert_state_dict
from s4m.sam.tiny import build_tiny_sam

DIMS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the image encoder of a published checkpoint."""
    shapes = {}

    def conv(name, inputs, outputs, kernel, groups=1):
        shapes[f"{name}.c.weight"] = (outputs, inputs // groups, kernel, kernel)
        for statistic in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{statistic}"] = (outputs,)
        shapes[f"{name}.bn.num_batches_tracked"] = ()

    def linear(name, inputs, outputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name, width):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    conv("patch_embed.seq.0", 3, 32, 3)
    conv("patch_embed.seq.2", 32, 64, 3)
    for layer, (dim, depth) in enumerate(zip(DIMS, DEPTHS, strict=True)):
        for block in range(depth):
            name = f"layers.{layer}.blocks.{block}"
            if layer == 0:
                conv(f"{name}.conv1", dim, 4 * dim, 1)
                conv(f"{name}.conv2", 4 * dim, 4 * dim, 3, 4 * dim)
                conv(f"{name}.conv3", 4 * dim, dim, 1)
                continue
            shapes[f"{name}.attn.attention_biases"] = (HEADS[layer], WINDOWS[layer] ** 2)
            norm(f"{name}.attn.norm", dim)
            linear(f"{name}.attn.qkv", dim, 3 * dim)
            linear(f"{name}.attn.proj", dim, dim)
            norm(f"{name}.mlp.norm", dim)
            linear(f"{name}.mlp.fc1", dim, 4 * dim)
            linear(f"{name}.mlp.fc2", 4 * dim, dim)
            conv(f"{name}.local_conv", dim, dim, 3, dim)
        if layer < 3:
            after, name = DIMS[layer + 1], f"layers.{layer}.downsample"
            conv(f"{name}.conv1", dim, after, 1)
            conv(f"{name}.conv2", after, after, 3, after)
            conv(f"{name}.conv3", after, after, 1)
    norm("norm_head", 320)
    linear("head", 320, 1000)
    shapes["neck.0.weight"], shapes["neck.2.weight"] = (256, 320, 1, 1), (256, 256, 3, 3)
    norm("neck.1", 256)
    norm("neck.3", 256)
    return shapes


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """A state_dict with random values in the layout of mobile_sam.pt, for an input of any size."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in published_shapes().items():
        if key.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif key.endswith("running_var"):
            value = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 and "biases" not in key else 1
            value = torch.randn(shape, generator=generator) / fan_in**0.5
            value = value * 0.2 + 1 if "norm" in key and key.endswith("weight") else value
        state[f"image_encoder.{key}"] = value
    own = build_mobile_sam(128)
    for key, value in own.state_dict().items():
        if not key.startswith("image_encoder."):
            state[key] = torch.randn(value.shape, generator=generator)
    return state


class Reference:
    """TinyViT with the last down-sampling left out, and the neck, from weights in the published layout."""

    def __init__(self, state):
        self.state = {key.removeprefix("image_encoder."): value for key, value in state.items()}

    def conv(self, name, x, stride=1):
        weight = self.state[f"{name}.c.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1] // weight.shape[1])
        bn = [self.state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *bn)

    def linear(self, name, x):
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def three(self, name, x, stride=1):
        """Convolutions 1x1, 3x3 by channel, 1x1."""
        x = F.gelu(self.conv(f"{name}.conv1", x))
        x = F.gelu(self.conv(f"{name}.conv2", x, stride))
        return self.conv(f"{name}.conv3", x)

    def attend(self, name, x, heads, window):
        """(n, window ** 2, C) -> the same; the bias of two cells is that of how far they are apart."""
        x = self.norm(f"{name}.norm", x)
        count, cells, width = x.shape
        q, k, v = self.linear(f"{name}.qkv", x).view(count, cells, heads, 3, width // heads).permute(3, 0, 2, 1, 4)
        where = torch.arange(cells)
        rows, columns = where // window, where % window
        apart = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        bias = self.state[f"{name}.attention_biases"][:, apart]
        weights = (q @ k.transpose(-1, -2) * (width // heads) ** -0.5 + bias).softmax(-1)
        return self.linear(f"{name}.proj", (weights @ v).transpose(1, 2).reshape(x.shape))

    def block(self, name, x, heads, window):
        """(B, C, h, w), in windows; the last ones are padded with zeros."""
        batch, width, height, length = x.shape
        rows, columns = -(-height // window), -(-length // window)
        padded = F.pad(x, (0, columns * window - length, 0, rows * window - height))
        cut = padded.view(batch, width, rows, window, columns, window).permute(0, 2, 4, 3, 5, 1)
        seen = self.attend(f"{name}.attn", cut.reshape(-1, window**2, width), heads, window)
        seen = seen.view(cut.shape).permute(0, 5, 1, 3, 2, 4).reshape(padded.shape)
        x = self.conv(f"{name}.local_conv", x + seen[..., :height, :length])
        mlp = self.norm(f"{name}.mlp.norm", x.permute(0, 2, 3, 1))
        mlp = self.linear(f"{name}.mlp.fc2", F.gelu(self.linear(f"{name}.mlp.fc1", mlp)))
        return x + mlp.permute(0, 3, 1, 2)

    def neck_norm(self, name, x):
        mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        weight, bias = (self.state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return (x - mean) / (var + 1e-6).sqrt() * weight + bias

    def __call__(self, x):
        x = self.conv("patch_embed.seq.2", F.gelu(self.conv("patch_embed.seq.0", x, 2)), 2)
        for layer, depth in enumerate(DEPTHS):
            for block in range(depth):
                name = f"layers.{layer}.blocks.{block}"
                if layer:
                    x = self.block(name, x, HEADS[layer], WINDOWS[layer])
                else:
                    x = F.gelu(x + self.three(name, x))
            if layer < 3:
                x = self.three(f"layers.{layer}.downsample", x, 1 if layer == 2 else 2)
        x = self.neck_norm("neck.1", F.conv2d(x, self.state["neck.0.weight"]))
        return self.neck_norm("neck.3", F.conv2d(x, self.state["neck.2.weight"], padding=1))


@pytest.mark.parametrize("side", [128, 176])
def test_the_encoder_is_that_of_the_published_weights(published, side):
    sam = build_mobile_sam(side).eval()
    sam.load_state_dict(convert_state_dict(published))
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, expected = sam.image_encoder(x), Reference(published)(x)
    assert features.shape == (1, 256, side // 16, side // 16)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


def test_tables_that_follow_from_the_windows_and_the_classifier_are_left_out(published):
    name = "image_encoder.layers.1.blocks.0.attn"
    tables = {f"{name}.attention_bias_idxs": torch.zeros(49, 49), f"{name}.ab": torch.zeros(4, 49, 49)}
    converted = convert_state_dict(published | tables)
    assert converted.keys() == build_mobile_sam(128).state_dict().keys()
    assert convert_state_dict({"image_encoder.other": 1, "more": 2}) == {"image_encoder.other": 1, "more": 2}


def test_size_of_the_published_model():
    parameters = sum(p.numel() for p in build_mobile_sam().parameters())
    assert parameters + 320 * 1000 + 1000 + 2 * 320 == pytest.approx(10.13e6, rel=1e-3)  # with the classifier


def test_checkpoints(published, tmp_path, monkeypatch):
    monkeypatch.setattr(mobile_sam.build_mobile_sam, "__defaults__", (128,))
    path = tmp_path / "mobile_sam.pt"
    torch.save(published, path)
    segmenter = build_segmenter("mobile_sam", str(path), chunk=3)
    assert segmenter.name == "mobile_sam" and segmenter.side == 128 and segmenter.chunk == 3
    weight = segmenter.network.image_encoder.trunk.stages[2].downsample.conv3.conv.weight
    assert torch.equal(weight, published["image_encoder.layers.1.downsample.conv3.c.weight"])
    with pytest.raises(ValueError, match=rf"'{path}' is not a checkpoint of tiny.*one of mobile_sam"):
        build_segmenter("tiny", str(path))
    torch.save({key: value for key, value in published.items() if "neck.3" not in key}, path)
    with pytest.raises(ValueError, match=rf"'{path}' is not a checkpoint of mobile_sam: .* other names or shapes"):
        build_segmenter("mobile_sam", str(path))
    torch.save(build_tiny_sam().state_dict(), path)
    with pytest.raises(ValueError, match=rf"'{path}' is not a checkpoint of mobile_sam.*one of tiny"):
        build_segmenter("mobile_sam", str(path))
    with pytest.raises(FileNotFoundError, match="S4M.SAM.CHECKPOINT.*ChaoningZhang/MobileSAM"):
        build_segmenter("mobile_sam", "")
