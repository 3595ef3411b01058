"""Parameters of each network against its published description, written out as the description gives them."""

from collections import Counter

import pytest

from istd.modeling import build_network


def conv(kernel, inputs, outputs, bias=True, groups=1):
    return Counter([(outputs, inputs // groups, kernel, kernel)]) + Counter({(outputs,): int(bias)})


def linear(inputs, outputs, bias=True):
    return Counter([(outputs, inputs)]) + Counter({(outputs,): int(bias)})


def norm(channels):
    return Counter({(channels,): 2})


def total(*parts):
    return sum(parts, Counter())


def pair(inputs, outputs):
    """Two conv3, each with BN."""
    return total(conv(3, inputs, outputs), norm(outputs), conv(3, outputs, outputs), norm(outputs))


def down(inputs, outputs):
    return total(pair(inputs, outputs), conv(3, inputs, outputs), norm(outputs))


def contrast(c):
    return conv(1, c, c) + conv(3, c, c)


WIDTHS = (16, 32, 64, 128, 256)
STEPS = list(zip(WIDTHS, WIDTHS[1:], strict=False))


def alclnet():
    stages = total(pair(3, 16), *[pair(16, 16)] * 3, *(total(down(a, b), pair(b, b), pair(b, b)) for a, b in STEPS))
    fusions = total(*(total(conv(1, b, a), norm(a), conv(1, a, a), norm(a)) for a, b in STEPS))
    return total(stages, *map(contrast, WIDTHS), fusions, conv(1, 16, 16), conv(1, 16, 1))


def mlclnet():
    stages = total(pair(3, 16), *[pair(16, 16)] * 3, *(total(down(a, b), pair(b, b), pair(b, b)) for a, b in STEPS[:2]))
    branches = total(*(total(conv(k, c, c), conv(3, c, c)) for c in WIDTHS[:3] for k in (1, 3, 5)))
    merges = total(*(conv(1, 3 * c, c) + conv(1, c, 64) for c in WIDTHS[:3]))
    return total(stages, branches, merges, conv(1, 64, 64), conv(1, 64, 1))


def gglnet():
    def squeeze(c):
        return linear(c, c // 4, bias=False) + linear(c // 4, c, bias=False)

    def supplement(c):
        return total(pair(3, c), squeeze(c), pair(2 * c, c), squeeze(c))

    def rest(c):
        return total(*[pair(c, c) + squeeze(c)] * 2, supplement(c))

    def fusion(a, b):
        gate = conv(1, b, b // 8, bias=False) + conv(1, b // 8, b, bias=False)
        return total(conv(1, a, b), norm(b), gate, conv(7, 2, 1))

    stages = total(pair(3, 16), pair(16, 16), rest(16), *(down(a, b) + rest(b) for a, b in STEPS))
    head = total(*map(contrast, WIDTHS), *(fusion(b, a) for a, b in STEPS))
    return total(stages, head, conv(1, 16, 16), conv(1, 16, 1))


def cbam(inputs, outputs):
    channel = conv(1, outputs, outputs // 16, bias=False) + conv(1, outputs // 16, outputs, bias=False)
    shortcut = conv(1, inputs, outputs) + norm(outputs) if inputs != outputs else Counter()
    return total(pair(inputs, outputs), channel, conv(7, 2, 1, bias=False), shortcut)


def two_cbam(inputs, outputs):
    return cbam(inputs, outputs) + cbam(outputs, outputs)


def mshnet():
    encoder = total(conv(1, 3, 16), cbam(16, 16), *(two_cbam(a, b) for a, b in STEPS))
    decoder = total(two_cbam(384, 128), two_cbam(192, 64), two_cbam(96, 32), cbam(48, 16))
    return total(encoder, decoder, *(conv(1, c, 1) for c in WIDTHS[:4]), conv(3, 4, 1))


def dnanet(channels):
    column = total(cbam(channels, 16), *(two_cbam(a, b) for a, b in STEPS))
    outer = total(*(cbam(inputs, 16) for inputs in (48, 64, 80, 96)))
    inner = {112: 32, 224: 64, 448: 128, 144: 32, 288: 64, 176: 32}
    nest = total(outer, *(two_cbam(inputs, outputs) for inputs, outputs in inner.items()))
    fusion = total(*(conv(1, c, 16) for c in WIDTHS[1:]), cbam(80, 16))
    return total(column, nest, fusion, *[conv(1, 16, 1)] * 4)


def edge(a, b):
    branches = total(*[conv(3, a, b, bias=False)] * 2, conv(1, a, b), *[norm(b)] * 3)
    return branches + (norm(b) if a == b else Counter())


def repisdnet(block):
    blocks = [(32, 64), (64, 64), (64, 64), (64, 64), (128, 64), (64, 32), (64, 32), (32, 32)]
    inc = total(conv(3, 3, 32, bias=False), norm(32), conv(3, 32, 32, bias=False), norm(32))
    pyramid = total(*[conv(1, 32, 8, bias=False) + norm(8)] * 4)
    head = total(conv(3, 64, 32, bias=False), norm(32), conv(1, 32, 1))
    return total(inc, *(block(a, b) for a, b in blocks), pyramid, head)


def transformer_layer():
    levels = WIDTHS[1:]
    depthwise = conv(1, 480, 480, bias=False) + conv(3, 480, 480, bias=False, groups=480)
    parts = [norm(480), depthwise, depthwise, Counter({(): 16})]
    for c, h in zip(levels, (85, 170, 340, 680), strict=True):
        query = conv(1, c, c, bias=False) + conv(3, c, c, bias=False, groups=c // 2)
        feed = total(
            norm(c),
            conv(1, c, 2 * h, bias=False),
            conv(3, h, h, bias=False, groups=h),
            conv(5, h, h, bias=False, groups=h),
            conv(1, 2 * h, c, bias=False),
            Counter([(1, 1, 3)]),
        )
        parts += [norm(c), query, conv(1, c, c, bias=False), feed]
    return total(*parts)


def sctransnet():
    levels = WIDTHS[1:]
    steps = [(3, 32), (32, 64), (64, 128), (128, 256)]
    encoder = total(*(total(pair(a, b), conv(1, a, b), norm(b)) for a, b in steps), pair(256, 256))
    embeddings = total(
        *(conv(patch, c, c) + Counter([(1, 256, c)]) for c, patch in zip(levels, (16, 8, 4, 2), strict=True))
    )
    ends = total(*(total(norm(c), conv(1, c, c), norm(c)) for c in levels))
    ups = total(
        *(total(*[linear(a // 2, a // 2)] * 2, pair(a, b)) for a, b in ((512, 128), (256, 64), (128, 32), (64, 32)))
    )
    sides = total(*(conv(1, c, 1) for c in (256, 128, 64, 32)), conv(1, 5, 1), conv(1, 32, 1))
    return total(encoder, embeddings, *[transformer_layer()] * 4, ends, ups, sides)


# network, options, shapes, published number of parameters
TABLE = [
    ("ALCLNet", {}, alclnet(), 5_668_145),
    ("MLCLNet", {}, mlclnet(), 657_249),
    ("GGLNet", {}, gglnet(), 8_988_093),
    ("MSHNet", {}, mshnet(), 4_065_513),
    ("DNANet", {}, dnanet(3), 4_696_888),
    ("DNANet", {"in_channels": 1}, dnanet(1), 4_696_568),
    ("SCTransNet", {}, sctransnet(), 11_326_579),
    # One logit instead of two: 33 parameters less.
    ("RepISDNet", {}, repisdnet(edge), 558_530 - 33),
    ("RepISDNet", {"merged": True}, repisdnet(lambda a, b: conv(3, a, b)), 279_106 - 33),
]


@pytest.mark.parametrize(("name", "options", "shapes", "parameters"), TABLE)
def test_parameters_are_those_of_the_description(name, options, shapes, parameters):
    network = build_network(name, **options)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert Counter(tuple(parameter.shape) for parameter in network.parameters()) == shapes
