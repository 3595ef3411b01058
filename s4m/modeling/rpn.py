"""A region proposal network that learns from pseudo-labels with weights per instance and ignored regions."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom

from s4m.losses.weighted import box_losses
from s4m.modeling.ignored import inside_ignored, split_ignored


class AnchorTargets(NamedTuple):
    """The boxes (R, 4) and weights (R,) of the instances that the R anchors of one image are matched to.

    Boxes have a meaning for positive anchors only; the weights of all other anchors are 1.
    """

    boxes: torch.Tensor
    weights: torch.Tensor


@PROPOSAL_GENERATOR_REGISTRY.register()
class PseudoLabelRPN(RPN):
    """An RPN for pseudo-labels, in which the loss of an anchor has the weight of its instance.

    Background anchors inside ignored regions take no part in the loss. With weights of one and without ignored regions
    the losses are Detectron2's own.
    """

    learns_from_pseudo_labels = True

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return RPN's arguments."""
        if cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE not in ("smooth_l1", "giou"):
            raise ValueError("MODEL.RPN.BBOX_REG_LOSS_TYPE must be smooth_l1 or giou for PseudoLabelRPN.")
        return super().from_config(cfg, input_shape)

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[AnchorTargets]]:
        """Label anchors as Detectron2 does; return the labels (R,) 1, 0 or -1 (ignored) and targets of each image."""
        all_anchors = Boxes.cat(anchors)
        labels, targets = zip(*[self._match_anchors(all_anchors, image) for image in gt_instances], strict=True)
        return list(labels), list(targets)

    def _match_anchors(self, anchors: Boxes, instances: Instances) -> tuple[torch.Tensor, AnchorTargets]:
        labeled, ignored = split_ignored(instances)
        device = anchors.tensor.device
        overlaps = retry_if_cuda_oom(pairwise_iou)(labeled.gt_boxes, anchors)
        index, labels = (part.to(device) for part in retry_if_cuda_oom(self.anchor_matcher)(overlaps))
        if self.anchor_boundary_thresh >= 0:
            labels[~anchors.inside_box(instances.image_size, self.anchor_boundary_thresh)] = -1
        labels = self._subsample_labels(labels)
        labels[(labels == 0) & inside_ignored(anchors, ignored)] = -1
        weights = anchors.tensor.new_ones(len(anchors))
        if not len(labeled):
            return labels, AnchorTargets(torch.zeros_like(anchors.tensor), weights)
        if labeled.has("gt_weights"):
            positive = labels == 1
            weights[positive] = labeled.gt_weights.to(weights)[index[positive]]
        return labels, AnchorTargets(labeled.gt_boxes.tensor[index], weights)

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[AnchorTargets],
    ) -> dict[str, torch.Tensor]:
        """Return Detectron2's losses, weighted; `gt_boxes` are the targets of `label_and_sample_anchors`."""
        boxes = [targets.boxes for targets in gt_boxes]
        weights = torch.stack([targets.weights for targets in gt_boxes])
        if (weights == 1).all():
            return super().losses(anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, boxes)
        labels = torch.stack(gt_labels)
        positive = labels == 1
        sampled = labels >= 0
        for name, chosen in (("pos", positive), ("neg", labels == 0)):
            get_event_storage().put_scalar(f"rpn/num_{name}_anchors", chosen.sum().item() / len(labels))
        logits = cat(pred_objectness_logits, dim=1)
        entropy = F.binary_cross_entropy_with_logits(logits[sampled], labels[sampled].float(), reduction="none")
        deltas = cat(pred_anchor_deltas, dim=1)
        starts = Boxes.cat(anchors).tensor.expand_as(deltas)
        location = box_losses(self, deltas[positive], starts[positive], torch.stack(boxes)[positive])
        sums = {
            "loss_rpn_cls": (weights[sampled] * entropy).sum(),
            "loss_rpn_loc": (weights[positive] * location).sum(),
        }
        count = self.batch_size_per_image * len(labels)
        return {key: value / count * self.loss_weight.get(key, 1.0) for key, value in sums.items()}
