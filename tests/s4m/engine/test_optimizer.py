"""Which optimizer a configuration gives, and which parameters have which rate."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from d2kit.accumulate import with_accumulation
from s4m import add_s4m_config
from s4m.engine.optimizer import build_lr_scheduler, build_optimizer


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": nn.Linear(2, 2), "lateral": nn.Linear(2, 2)})
        self.norm = nn.GroupNorm(1, 2)
        self.teacher = nn.Linear(2, 2).requires_grad_(False)


def build(**options):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.5, 0.25, 0.0
    cfg.merge_from_list([item for key, value in options.items() for item in (f"SOLVER.{key}", value)])
    network = Network()
    return network, build_optimizer(cfg, network)


def settings(network, optimizer):
    names = {id(p): name for name, p in network.named_parameters()}
    groups = optimizer.param_groups
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize(("name", "kind"), [("SGD", torch.optim.SGD), ("ADAMW", torch.optim.AdamW)])
def test_backbone_has_a_rate_of_its_own(name, kind):
    network, optimizer = build(OPTIMIZER=name, BACKBONE_MULTIPLIER=0.1)
    assert isinstance(optimizer, kind)
    bottom_up = dict.fromkeys(("backbone.bottom_up.weight", "backbone.bottom_up.bias"), (0.05, 0.25))
    lateral = dict.fromkeys(("backbone.lateral.weight", "backbone.lateral.bias"), (0.5, 0.25))
    norm = dict.fromkeys(("norm.weight", "norm.bias"), (0.5, 0.0))
    assert settings(network, optimizer) == {**bottom_up, **lateral, **norm}


def test_embeddings_have_a_decay_of_their_own_on_request():
    def find(**options):
        cfg = get_cfg()
        add_s4m_config(cfg)
        cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.BASE_LR = 0.25, 0.5, 1.0
        cfg.merge_from_list([item for key, value in options.items() for item in (f"SOLVER.{key}", value)])
        vit = nn.Linear(1, 1)
        vit.cls_token, vit.pos_embed = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        frozen = nn.Embedding(1, 1).requires_grad_(False)
        network = nn.ModuleDict({"backbone": vit, "queries": nn.Embedding(1, 1), "frozen": frozen})
        return settings(network, build_optimizer(cfg, network))

    plain = {f"backbone.{key}": (0.5, 0.25) for key in ("weight", "bias", "cls_token", "pos_embed")}
    plain["queries.weight"] = (1.0, 0.25)
    assert find() == plain
    own = {key: (plain[key][0], 0.0) for key in ("queries.weight", "backbone.cls_token", "backbone.pos_embed")}
    assert find(WEIGHT_DECAY_EMBED=0.0) == {**plain, **own}


def test_one_rate_by_default_and_clipping_on_request():
    network, optimizer = build()
    assert type(optimizer) is torch.optim.SGD and optimizer.defaults["momentum"] == 0.9
    assert {rate for rate, _ in settings(network, optimizer).values()} == {0.5}
    network, clipped = build(**{"CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.CLIP_VALUE": 0.125, "MOMENTUM": 0.0})
    before = network.backbone["lateral"].weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 8.0)
    clipped.step()
    decayed = before - 0.5 * 0.25 * before
    torch.testing.assert_close(network.backbone["lateral"].weight.detach(), decayed - 0.5 * 0.125)


def test_norm_of_all_gradients_together_is_clipped():
    options = {"CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.CLIP_TYPE": "full_model", "MOMENTUM": 0.0}
    network, optimizer = build(**{**options, "CLIP_GRADIENTS.CLIP_VALUE": 0.5, "WEIGHT_DECAY": 0.0})
    learned = [p for p in network.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learned]
    for index, parameter in enumerate(learned):
        parameter.grad = torch.full_like(parameter, float(index))
    whole = torch.cat([p.grad.flatten() for p in learned]).norm()
    gradients = [p.grad * 0.5 / whole for p in learned]
    optimizer.step()
    for parameter, old, gradient in zip(learned, before, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.5 * gradient)


@pytest.mark.parametrize("kind", ["full_model", "norm", "value"])
def test_loaded_optimizer_clips_the_mean_of_accumulated_gradients(kind):
    options = {"CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.CLIP_TYPE": kind, "CLIP_GRADIENTS.CLIP_VALUE": 1.0}
    moved = []
    for load in (False, True):
        network, optimizer = build(**options, MOMENTUM=0.0, WEIGHT_DECAY=0.0)
        optimizer = with_accumulation(optimizer, 2)
        if load:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight = network.backbone["lateral"].weight
        before = weight.detach().clone()
        for gradient in ([[10.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]):
            weight.grad = torch.tensor(gradient)
            optimizer.step()
        moved.append(before - weight.detach())
    mean = torch.tensor([[5.0, 0.5], [0.0, 0.0]])
    clipped = mean.clamp(max=1.0) if kind == "value" else mean / mean.norm()
    torch.testing.assert_close(moved[0], 0.5 * clipped)
    torch.testing.assert_close(moved[1], moved[0])


def test_backbone_without_a_pyramid_has_the_rate_as_a_whole():
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.WEIGHT_DECAY_NORM = 1.0, 0.1, 0.0
    network = nn.ModuleDict({"backbone": nn.ModuleDict({"res2": nn.Linear(1, 1)}), "head": nn.Linear(1, 1)})
    found = settings(network, build_optimizer(cfg, network))
    assert {name: rate for name, (rate, _) in found.items()} == {
        "backbone.res2.weight": 0.1, "backbone.res2.bias": 0.1, "head.weight": 1.0, "head.bias": 1.0,
    }  # fmt: skip


def test_unknown_optimizer_names_the_key():
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER must be SGD or ADAMW, not 'LION'"):
        build(OPTIMIZER="LION")


def rates(**options):
    """The rate of each iteration, of a base rate of 0.5 and 10 iterations."""
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = "WarmupPolyLR", 10, 0
    cfg.merge_from_list([item for key, value in options.items() for item in (f"SOLVER.{key}", value)])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.5)
    scheduler, found = build_lr_scheduler(cfg, optimizer), []
    for _ in range(10):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_polynomial_rate():
    assert rates() == pytest.approx([0.5 * (1 - i / 10) ** 0.9 for i in range(10)])
    assert rates(POLY_LR_POWER=2.0) == pytest.approx([0.5 * (1 - i / 10) ** 2 for i in range(10)])
    warm = rates(WARMUP_ITERS=4, WARMUP_FACTOR=0.1)
    assert warm[0] == pytest.approx(0.05) and warm[1] < warm[2] < warm[3]
    assert warm[4:] == pytest.approx(rates()[4:])
    assert rates(LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=(5,)) == pytest.approx([0.5] * 5 + [0.05] * 5)
