"""SGD or AdamW with a rate of its own for the backbone, and the rate's course, as Detectron2's relatives train with."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `SOLVER.OPTIMIZER` names, with Detectron2's parameter groups and gradient clipping.

    Parameters below a module named `bottom_up` (the backbone without its pyramid) get BASE_LR x BACKBONE_MULTIPLIER.

    Raises:
        ValueError: another name.
    """
    solver = cfg.SOLVER

    def factor(name: str) -> float:
        return solver.BACKBONE_MULTIPLIER if ".bottom_up." in f".{name}" else 1.0

    parameters = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=factor,
    )
    if solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(
            parameters, solver.BASE_LR, solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY, nesterov=solver.NESTEROV
        )
    elif solver.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(parameters, solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
    else:
        raise ValueError(f"SOLVER.OPTIMIZER must be SGD or ADAMW, not '{solver.OPTIMIZER}'.")
    return maybe_add_gradient_clipping(cfg, optimizer)


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
