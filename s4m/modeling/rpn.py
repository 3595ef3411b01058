"""Region proposal network that learns from pseudo-labels: weights per instance, ignored regions."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage

from s4m.modeling.ignored import inside_ignored, split_ignored
from s4m.modeling.roi_heads import box_losses


@PROPOSAL_GENERATOR_REGISTRY.register()
class PseudoLabelRPN(RPN):
    """RPN for pseudo-labels: what the anchors of an instance cost is weighted as the instance.

    Background anchors inside ignored regions take no part in the loss. With weights of one and without ignored regions
    the losses are Detectron2's own.
    """

    learns_from_pseudo_labels = True

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """RPN's arguments."""
        if cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE not in ("smooth_l1", "giou"):
            raise ValueError("MODEL.RPN.BBOX_REG_LOSS_TYPE must be smooth_l1 or giou for PseudoLabelRPN.")
        return super().from_config(cfg, input_shape)

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """As Detectron2's, with the instances' weights.

        Returns:
            of each image (R,) labels 1, 0 or -1 (ignored), and (R, 5) the box and the weight of the matched instance.
        """
        kept, ignored = zip(*[split_ignored(x) for x in gt_instances], strict=True)
        labels, matched = super().label_and_sample_anchors(anchors, list(kept))
        every = Boxes.cat(anchors)
        for label, regions in zip(labels, ignored, strict=True):
            label[(label == 0) & inside_ignored(every, regions)] = -1
        weighted = [_with_weights(*parts) for parts in zip(labels, matched, kept, strict=True)]
        return labels, weighted

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """As Detectron2's; `gt_boxes` are of `label_and_sample_anchors`, (R, 5) an image."""
        boxes, weights = [some[:, :4] for some in gt_boxes], torch.stack([some[:, 4] for some in gt_boxes])
        if (weights == 1).all():
            return super().losses(anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, boxes)
        labels = torch.stack(gt_labels)
        for name, kind in (("pos", 1), ("neg", 0)):
            get_event_storage().put_scalar(f"rpn/num_{name}_anchors", (labels == kind).sum().item() / len(labels))
        logits, chosen = cat(pred_objectness_logits, dim=1), labels >= 0
        entropy = F.binary_cross_entropy_with_logits(logits[chosen], labels[chosen].float(), reduction="none")
        positive = labels == 1
        deltas = cat(pred_anchor_deltas, dim=1)
        starts = Boxes.cat(anchors).tensor.expand_as(deltas)
        location = box_losses(self, deltas[positive], starts[positive], torch.stack(boxes)[positive])
        sums = {
            "loss_rpn_cls": (weights[chosen] * entropy).sum(),
            "loss_rpn_loc": (weights[positive] * location).sum(),
        }
        count = self.batch_size_per_image * len(labels)
        return {key: value / count * self.loss_weight.get(key, 1.0) for key, value in sums.items()}


def _with_weights(labels: torch.Tensor, matched: torch.Tensor, instances: Instances) -> torch.Tensor:
    """Append to the boxes (R, 4) that anchors are matched to the weight of that instance, 1 where there is none."""
    weights = matched.new_ones(len(matched))
    if len(instances) and instances.has("gt_weights"):
        rows = labels == 1
        same = (matched[rows][:, None] == instances.gt_boxes.tensor[None]).all(dim=2)  # of equal boxes the first
        weights[rows] = instances.gt_weights.to(weights)[same.int().argmax(dim=1)]
    return torch.cat([matched, weights[:, None]], dim=1)
