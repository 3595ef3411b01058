"""Parts of losses whose objects have weights and whose counts go over all processes."""

import torch
import torch.distributed as dist
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.utils import comm
from fvcore.nn import giou_loss, smooth_l1_loss


def global_count(count: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the mean of `count` over the processes, at least 1 in total.

    DDP averages gradients over the processes; a loss that is divided by this mean keeps them exact.
    """
    total = torch.as_tensor(float(count), device=device)
    if comm.get_world_size() > 1:
        dist.all_reduce(total)
    return total.clamp(min=1.0) / comm.get_world_size()


def box_losses(
    regression: RPN | FastRCNNOutputLayers, deltas: torch.Tensor, boxes: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the regression loss (P,) of each of P boxes.

    Args:
        regression: the settings of the box regression; its `box_reg_loss_type` is smooth_l1 or giou.
        deltas: (P, 4) predicted deltas.
        boxes: (P, 4) xyxy boxes that the deltas move.
        targets: (P, 4) xyxy boxes that shall result.
    """
    if regression.box_reg_loss_type == "giou":
        return giou_loss(regression.box2box_transform.apply_deltas(deltas, boxes), targets, reduction="none")
    target_deltas = regression.box2box_transform.get_deltas(boxes, targets)
    return smooth_l1_loss(deltas, target_deltas, regression.smooth_l1_beta, reduction="none").sum(dim=1)
