"""Ignored regions (class -1): what lies in them is neither object nor background.

A proposal generator or ROI heads declare by the class attribute `learns_from_pseudo_labels = True` that they leave
ignored regions out of their losses and weigh instances by `gt_weights`; Detectron2's own take class -1 for an object.
"""

import torch
from detectron2.config import CfgNode
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, Instances, pairwise_ioa

IGNORED_OVERLAP = 0.5  # A background box with more of its area than this inside an ignored region is not background.
PARTS = "MODEL.PROPOSAL_GENERATOR.NAME PseudoLabelRPN and MODEL.ROI_HEADS.NAME PseudoLabelROIHeads"


def split_ignored(instances: Instances) -> tuple[Instances, Boxes]:
    """Separate the labeled instances from the boxes of ignored regions (class -1)."""
    ignored = instances.gt_classes < 0
    return instances[~ignored], instances.gt_boxes[ignored]


def inside_ignored(boxes: Boxes, ignored: Boxes) -> torch.Tensor:
    """Return (N,) bool: which of N boxes lie mostly inside one of M ignored boxes."""
    if len(ignored) == 0 or len(boxes) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return pairwise_ioa(ignored, boxes).max(dim=0).values > IGNORED_OVERLAP


def outside_ignored(ignored: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return which cells a mask loss counts: all but those of ignored regions, unless they are the object's own.

    `ignored` is the share of each cell that ignored regions cover, `targets` is the object's mask in [0, 1].
    """
    return (ignored < 0.5) | (targets >= 0.5)


def require_pseudo_label_parts(cfg: CfgNode) -> None:
    """Refuse Detectron2's own RPN and ROI heads where unlabeled images bring ignored regions, weights or soft masks.

    Raises:
        ValueError: DATASETS.UNLABELED stands with S4M.CALIBRATION, S4M.BOUNDARY or INPUT.IGNORE_VOID, but a part does
            not learn from pseudo-labels.
    """
    names = cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.ROI_HEADS.NAME
    parts = zip((PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY), names, strict=True)
    registered = [registry.get(name) if name in registry else None for registry, name in parts]
    if all(getattr(part, "learns_from_pseudo_labels", False) for part in registered):
        return
    switches = {
        "S4M.CALIBRATION.ENABLED": cfg.S4M.CALIBRATION.ENABLED,
        "S4M.BOUNDARY.ENABLED": cfg.S4M.BOUNDARY.ENABLED,
        "INPUT.IGNORE_VOID": cfg.INPUT.IGNORE_VOID,
    }
    enabled = [key for key, on in switches.items() if on]
    if len(cfg.DATASETS.UNLABELED) and enabled:
        raise ValueError(
            f"{' and '.join(enabled)} with DATASETS.UNLABELED need {PARTS}, or others that declare "
            f"learns_from_pseudo_labels, not '{names[0]}' and '{names[1]}'."
        )
