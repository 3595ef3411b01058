"""MSHNet, DNANet and SCTransNet: what their nodes read, and attention across channels, by hand."""

import math

import torch
import torch.nn.functional as F

from istd.modeling import build_network
from istd.modeling.backbones.sctransnet import CrossAttention, FeedForward, GatedUp


def enlarge(x, factor):
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


def test_mshnet_fuses_its_own_masks():
    torch.manual_seed(0)
    network = build_network("MSHNet").eval()
    fused, *masks = network.head(network.encoder(torch.randn(1, 3, 32, 32)))
    planes = [enlarge(mask, 2**level) if level else mask for level, mask in enumerate(masks)]
    assert torch.allclose(fused, network.final(torch.cat(planes, 1)), atol=1e-5)


def test_dnanet_nodes_read_their_row_the_deeper_and_the_shallower_one():
    torch.manual_seed(0)
    network, read = build_network("DNANet").eval(), {}
    for name, node in network.nodes.items():
        node.register_forward_hook(lambda module, inputs, output, name=name: read.update({name: (inputs[0], output)}))
    features = network.encoder(torch.randn(1, 3, 32, 32))
    network.head(features)
    x = {f"{depth}_0": feature for depth, feature in enumerate(features)}
    x |= {name: output for name, (_, output) in read.items()}
    order = ["0_1", "1_1", "0_2", "2_1", "1_2", "0_3", "3_1", "2_2", "1_3", "0_4"]
    assert list(read) == order
    for name, parts in {
        "0_1": [x["0_0"], enlarge(x["1_0"], 2)],
        "1_2": [x["1_0"], x["1_1"], enlarge(x["2_1"], 2), enlarge(x["0_2"], 0.5)],
        "0_4": [*(x[f"0_{j}"] for j in range(4)), enlarge(x["1_3"], 2)],
    }.items():
        assert torch.equal(read[name][0], torch.cat(parts, 1)), name
    parts = [
        enlarge(lateral(x[n]), f)
        for lateral, n, f in zip(network.laterals, ("4_0", "3_1", "2_2", "1_3"), (16, 8, 4, 2), strict=True)
    ]
    fused = network.outputs[3](network.fusion(torch.cat([*parts, x["0_4"]], 1)))
    assert torch.allclose(network.head(features)[0], fused, atol=1e-6)


def test_cross_attention_by_hand():
    torch.manual_seed(0)
    widths = (4, 8)
    attention = CrossAttention(widths).eval()
    levels = [torch.randn(1, c, 3, 3) for c in widths]
    joint = attention.norm(torch.cat(levels, 1))
    mean, deviation = torch.cat(levels, 1).mean(1), torch.cat(levels, 1).std(1, correction=0)
    assert torch.allclose(joint, (torch.cat(levels, 1) - mean) / (deviation**2 + 1e-5).sqrt(), atol=1e-5)
    key, value = attention.key(joint).reshape(12, 9), attention.value(joint).reshape(12, 9)
    query = attention.queries[0](attention.norms[0](levels[0])).reshape(4, 9)
    likeness = F.cosine_similarity(query[:, None], key[None], dim=-1) / math.sqrt(12)
    likeness = (likeness - likeness.mean()) / (likeness.var(correction=0) + 1e-5).sqrt()
    mixed = (likeness.softmax(1) @ value).reshape(1, 4, 3, 3)
    assert torch.allclose(attention(levels)[0], levels[0] + attention.outputs[0](mixed), atol=1e-5)


def test_feed_forward_and_gated_up_by_hand():
    torch.manual_seed(0)
    feed, x = FeedForward(8), torch.randn(2, 8, 4, 4)
    first, second = feed.first(feed.norm(x)).split(21, 1)
    y = feed.last(torch.cat([feed.depthwise[0](first).relu(), feed.depthwise[1](second).relu()], 1))
    means, kernel = F.pad(y.mean((2, 3)), (1, 1)), feed.neighbours.weight[0, 0]
    gate = sum(kernel[i] * means[:, i : i + 8] for i in range(3)).sigmoid()
    assert torch.allclose(feed(x), x + y * gate[..., None, None], atol=1e-5)
    up, deep, skip = GatedUp(16, 4).eval(), torch.randn(2, 8, 2, 2), torch.randn(2, 8, 4, 4)
    gate = ((up.of_skip(skip.mean((2, 3))) + up.of_deep(deep.mean((2, 3)))) / 2).sigmoid()
    large = deep.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = up.convs(torch.cat([(skip * gate[..., None, None]).relu(), large], 1))
    assert torch.allclose(up(deep, skip), expected, atol=1e-5)


def test_sctransnet_skips_hold_the_feature_twice():
    torch.manual_seed(0)
    transformer = build_network("SCTransNet").eval().transformer
    features = [torch.randn(1, c, 32 // 2**level, 32 // 2**level) for level, c in enumerate((32, 64, 128, 256))]
    rebuilt = []
    for layer in transformer.rebuild:
        layer.register_forward_hook(lambda module, inputs, output: rebuilt.append(output))
    skips = transformer(features)
    for skip, own, feature in zip(skips, rebuilt, features, strict=True):
        assert torch.allclose(skip, own + 2 * feature)
