"""SGD or AdamW with a rate of its own for the backbone, as Detectron2's relatives train with."""

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping


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
