"""SCAM: by hand, at its start, switched off, and its gradients."""

import pytest
import torch

from istd.modeling import SCAM

CHANNELS = (2, 3)


def build(scale: float = 0.5, layers: int = 3, trained: bool = True) -> SCAM:
    torch.manual_seed(0)
    scam = SCAM(4, CHANNELS, num_layers=layers, hidden_dim=8, scale=scale).double()
    if trained:
        for parameter in scam.parameters():
            torch.nn.init.normal_(parameter)
    return scam


def inputs(layers: int = 3, batch: int = 2):
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randn(batch, 4, 2, 3, generator=generator, dtype=torch.float64) for _ in range(layers)]
    features = [torch.randn(batch, c, 8 // c, 5, generator=generator, dtype=torch.float64) for c in CHANNELS]
    return tokens, features


def by_hand(scam: SCAM, tokens, features):
    """The steps of the method one sample, stage and channel at a time."""
    layer = scam.layer_logits.exp() / scam.layer_logits.exp().sum()
    results = [torch.empty_like(f) for f in features]
    for b in range(len(tokens[0])):
        cells = [sum(layer[k] * tokens[k][b, :, y, x] for k in range(len(tokens))) for y in range(2) for x in range(3)]
        scores = torch.stack([scam.score.weight[0] @ cell + scam.score.bias[0] for cell in cells])
        attention = scores.exp() / scores.exp().sum()
        pooled = sum(s * cell for s, cell in zip(attention, cells, strict=True))
        hidden = (scam.mlp[0].weight @ pooled + scam.mlp[0].bias).clamp(min=0)
        out = scam.mlp[2].weight @ hidden + scam.mlp[2].bias
        total, channel = sum(CHANNELS), 0
        for result, feature in zip(results, features, strict=True):
            for c in range(feature.shape[1]):
                gamma = 1 + torch.tanh(out[channel] * scam.gate[channel])
                factor = 1 + scam.scale * (gamma - 1)
                result[b, c] = factor * feature[b, c] + scam.scale * out[total + channel]
                channel += 1
    return results


def test_equals_the_steps_by_hand():
    scam = build()
    tokens, features = inputs()
    for got, wanted in zip(scam(tokens, features), by_hand(scam, tokens, features), strict=True):
        assert torch.allclose(got, wanted, atol=1e-12)


def test_list_and_tensor_of_tokens_agree_and_half_precision_works():
    scam = build()
    tokens, features = inputs()
    for a, b in zip(scam(tokens, features), scam(torch.stack(tokens), features), strict=True):
        assert torch.equal(a, b)
    half = scam([t.half() for t in tokens], features)
    assert all(torch.allclose(a, b, atol=0.05) for a, b in zip(half, scam(tokens, features), strict=True))


def test_starts_as_the_identity():
    scam = build(trained=False)
    tokens, features = inputs()
    gammas, betas = scam.affine(tokens)
    assert all((g == 1).all() for g in gammas) and not any(b.any() for b in betas)
    assert all(torch.equal(a, b) for a, b in zip(scam(tokens, features), features, strict=True))
    assert scam.layer_logits.tolist() == [0, 0, 0] and (scam.gate == 1).all()
    scam(tokens, features)[0].square().sum().backward()
    assert scam.mlp[-1].weight.grad.any()


@pytest.mark.parametrize("scale", [0.0, 1e-6])
def test_off_returns_the_features_without_tokens(scale):
    scam = build(scale)
    _, features = inputs()
    got = scam(None, features)
    assert not scam.active and all(a is b for a, b in zip(got, features, strict=True))
    assert build(2e-6).active


def test_chosen_stages_alone_are_modulated():
    tokens, features = inputs()
    torch.manual_seed(0)
    scam = SCAM(4, CHANNELS, num_layers=3, hidden_dim=8, stages=[1]).double()
    for parameter in scam.parameters():
        torch.nn.init.normal_(parameter)
    first, second = scam(tokens, features)
    (gamma,), (beta,) = scam.affine(tokens)
    assert first is features[0] and scam.gate.shape == (3,)
    assert torch.allclose(second, (1 + 0.12 * (gamma - 1)) * features[1] + 0.12 * beta)


@pytest.mark.parametrize("stages", [[2], [-1], [0, 0]])
def test_stages_that_do_not_exist_are_refused(stages):
    with pytest.raises(ValueError, match=r"ISTD.SCAM.STAGES is .*: give stages from 0 to 1"):
        SCAM(4, CHANNELS, stages=stages)


def test_gate_penalty():
    scam = build()
    scam.gate.data.copy_(torch.tensor([1.0, -2.0, 0.0, 3.0, -4.0]))
    assert scam.gate_penalty().item() == 2.0
    assert build(trained=False).gate_penalty().item() == 1.0


def test_gradients():
    scam = build()
    tokens, features = inputs(batch=1)
    leaves = [f.requires_grad_() for f in features]

    def run(*parameters):
        names = [name for name, _ in scam.named_parameters()]
        state = dict(zip(names, parameters[len(leaves) :], strict=True))
        return tuple(torch.func.functional_call(scam, state, (tokens, list(parameters[: len(leaves)]))))

    assert torch.autograd.gradcheck(run, (*leaves, *scam.parameters()))


def test_single_layer_and_wrong_number_of_layers():
    tokens, features = inputs()
    scam = build(layers=1)
    assert scam(tokens[:1], features)[1].shape == features[1].shape
    with pytest.raises(ValueError, match="mixes 1 token maps, but 3"):
        scam(tokens, features)


def test_empty_batch():
    scam = build()
    tokens, features = inputs(batch=0)
    assert [f.shape for f in scam(tokens, features)] == [f.shape for f in features]
