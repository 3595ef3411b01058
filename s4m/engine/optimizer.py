"""SGD or AdamW with a rate of its own for the backbone, and the rate's course, as Detectron2's relatives train with."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `SOLVER.OPTIMIZER` names, with Detectron2's parameter groups and gradient clipping.

    Parameters of backbones, without their pyramids, get BASE_LR x BACKBONE_MULTIPLIER, and those of a ViT's blocks
    x LAYER_DECAY once for each block that comes after them besides. CLIP_GRADIENTS.CLIP_TYPE may be `full_model`: the
    norm of all gradients together is clipped.

    Raises:
        ValueError: another name.
    """
    solver = cfg.SOLVER
    parameters = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=_rate_factors(cfg, model),
    )
    if solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(
            parameters, solver.BASE_LR, solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY, nesterov=solver.NESTEROV
        )
    elif solver.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(parameters, solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
    else:
        raise ValueError(f"SOLVER.OPTIMIZER must be SGD or ADAMW, not '{solver.OPTIMIZER}'.")
    if solver.CLIP_GRADIENTS.ENABLED and solver.CLIP_GRADIENTS.CLIP_TYPE == "full_model":
        return _clip_together(optimizer, solver.CLIP_GRADIENTS.CLIP_VALUE, solver.CLIP_GRADIENTS.NORM_TYPE)
    return maybe_add_gradient_clipping(cfg, optimizer)


def _clip_together(optimizer: torch.optim.Optimizer, norm: float, kind: float) -> torch.optim.Optimizer:
    """Make each step of the optimizer clip the norm of all gradients together; changed in place."""
    every = [p for group in optimizer.param_groups for p in group["params"]]

    def clip(*_) -> None:
        torch.nn.utils.clip_grad_norm_(every, norm, kind)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def _rate_factors(cfg: CfgNode, model: torch.nn.Module) -> Callable[[str], float]:
    """A function of a parameter's name: what its rate is multiplied by."""
    depths = {}  # blocks of the networks in modules named `backbone`, by the networks' prefixes
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] == "backbone":
            part = next((part for part in ("bottom_up", "net") if hasattr(module, part)), "")
            network = getattr(module, part) if part else module
            depths[f"{name}.{part}." if part else f"{name}."] = getattr(network, "depth", 0)

    def factor(name: str) -> float:
        for prefix, depth in depths.items():
            if name.startswith(prefix):
                inside = f"backbone.{name[len(prefix) :]}"
                decay = get_vit_lr_decay_rate(inside, cfg.SOLVER.LAYER_DECAY, depth) if depth else 1.0
                return cfg.SOLVER.BACKBONE_MULTIPLIER * decay
        return 1.0

    return factor


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Detectron2's schedules, and `WarmupPolyLR`: BASE_LR * (1 - i / MAX_ITER) ** POLY_LR_POWER after warm-up."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_detectron2_lr_scheduler(cfg, optimizer)
    schedule = WarmupParamScheduler(
        PolynomialDecayParamScheduler(1.0, solver.POLY_LR_POWER),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, schedule, max_iter=solver.MAX_ITER)
