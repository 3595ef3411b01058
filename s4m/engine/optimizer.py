"""SGD or AdamW with a rate of its own for the backbone, and the rate's course, as Detectron2's relatives train with."""

import re
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping, reduce_param_groups
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

# parameters of ViTs and Swins that are learned embeddings without being an nn.Embedding
_EMBEDDINGS = ("pos_embed", "absolute_pos_embed", "relative_position_bias_table", "cls_token", "reg_token")


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `SOLVER.OPTIMIZER` names, with Detectron2's parameter groups and gradient clipping.

    Parameters of backbones, without their pyramids, get BASE_LR x BACKBONE_MULTIPLIER, and those of a ViT
    besides x LAYER_DECAY once, and once more for each block that comes after them: tokens, position and patch embedding
    stand before all blocks. WEIGHT_DECAY_EMBED, unless None, is the weight decay of every nn.Embedding and of class and
    register tokens, position embeddings and position biases. CLIP_GRADIENTS.CLIP_TYPE may be `full_model`: the norm of
    all gradients together is clipped.

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
    if solver.WEIGHT_DECAY_EMBED is not None:
        embeddings = {"params": _embeddings(model), "weight_decay": solver.WEIGHT_DECAY_EMBED}
        parameters = reduce_param_groups([*parameters, embeddings])  # later items replace earlier ones' settings
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


def _embeddings(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Trained parameters that WEIGHT_DECAY_EMBED is of."""
    return [
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad and (isinstance(module, torch.nn.Embedding) or name in _EMBEDDINGS)
    ]


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
                block = re.search(r"\bblocks\.(\d+)\.", name[len(prefix) :])
                later = depth - (int(block[1]) if block else -1) if depth else 0
                return cfg.SOLVER.BACKBONE_MULTIPLIER * cfg.SOLVER.LAYER_DECAY**later
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
