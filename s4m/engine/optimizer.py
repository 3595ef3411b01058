"""SGD or AdamW train the backbone with its own learning rate, and the rate may fall polynomially."""

import re
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping, reduce_param_groups
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

# Parameters of ViTs and Swins with these names are learned embeddings, but no nn.Embedding.
_EMBEDDINGS = ("pos_embed", "absolute_pos_embed", "relative_position_bias_table", "cls_token", "reg_token")


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that `SOLVER.OPTIMIZER` names, with Detectron2's parameter groups and gradient clipping.

    Parameters of a backbone, without its pyramid, have the rate BASE_LR x BACKBONE_MULTIPLIER. Those of a ViT also have
    the factor LAYER_DECAY once, and once more for each block after them; tokens, position and patch embedding come
    before all blocks. WEIGHT_DECAY_EMBED, unless None, is the weight decay of every nn.Embedding and of class and
    register tokens, position embeddings and position biases. With the CLIP_GRADIENTS.CLIP_TYPE `full_model`, the norm
    of all gradients together is clipped.

    Raises:
        ValueError: SOLVER.OPTIMIZER is neither SGD nor ADAMW.
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
        parameters = reduce_param_groups([*parameters, embeddings])  # Later settings replace earlier ones.
    if solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(
            parameters, solver.BASE_LR, solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY, nesterov=solver.NESTEROV
        )
    elif solver.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(parameters, solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
    else:
        raise ValueError(f"SOLVER.OPTIMIZER must be SGD or ADAMW, not '{solver.OPTIMIZER}'.")
    clipping = solver.CLIP_GRADIENTS
    if not (clipping.ENABLED and clipping.CLIP_TYPE == "full_model"):
        return maybe_add_gradient_clipping(cfg, optimizer)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def clip(*_) -> None:
        torch.nn.utils.clip_grad_norm_(trained, clipping.CLIP_VALUE, clipping.NORM_TYPE)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def _embeddings(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the trained parameters whose weight decay is WEIGHT_DECAY_EMBED."""
    return [
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad and (isinstance(module, torch.nn.Embedding) or name in _EMBEDDINGS)
    ]


def _rate_factors(cfg: CfgNode, model: torch.nn.Module) -> Callable[[str], float]:
    """Return a function that maps a parameter's name to the factor of its learning rate."""
    depths = {}  # It maps the prefix of each network in a module named `backbone` to the number of its blocks.
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] == "backbone":
            part = next((part for part in ("bottom_up", "net") if hasattr(module, part)), "")
            network = getattr(module, part) if part else module
            depths[f"{name}.{part}." if part else f"{name}."] = getattr(network, "depth", 0)

    def factor(name: str) -> float:
        for prefix, depth in depths.items():
            if name.startswith(prefix):
                block = re.search(r"\bblocks\.(\d+)\.", name[len(prefix) :])
                layers_after = depth - (int(block[1]) if block else -1) if depth else 0
                return cfg.SOLVER.BACKBONE_MULTIPLIER * cfg.SOLVER.LAYER_DECAY**layers_after
        return 1.0

    return factor


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Build Detectron2's schedules, or `WarmupPolyLR`: BASE_LR * (1 - i / MAX_ITER) ** POLY_LR_POWER after warm-up."""
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
