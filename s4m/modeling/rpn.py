"""Region proposal network that learns from pseudo-labels: weights per instance, ignored regions."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, Instances
from fvcore.nn import giou_loss, smooth_l1_loss

from s4m.modeling.roi_heads import inside_ignored, split_ignored


@PROPOSAL_GENERATOR_REGISTRY.register()
class PseudoLabelRPN(RPN):
    """RPN for pseudo-labels: what the anchors of an instance cost is weighted as the instance.

    Background anchors inside ignored regions take no part in the loss. With weights of one and without ignored regions
    the losses are Detectron2's own.
    """

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
        plain = super().losses(anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, boxes)
        labels = torch.stack(gt_labels)
        if (weights == 1).all():
            return plain
        logits, chosen = cat(pred_objectness_logits, dim=1), labels >= 0
        entropy = F.binary_cross_entropy_with_logits(logits[chosen], labels[chosen].float(), reduction="none")
        positive = labels == 1
        location = self._box_losses(Boxes.cat(anchors).tensor, cat(pred_anchor_deltas, dim=1), boxes, positive)
        sums = {
            "loss_rpn_cls": (weights[chosen] * entropy).sum(),
            "loss_rpn_loc": (weights[positive] * location).sum(),
        }
        count = self.batch_size_per_image * len(labels)
        return {key: value / count * self.loss_weight.get(key, 1.0) for key, value in sums.items()}

    def _box_losses(
        self, anchors: torch.Tensor, deltas: torch.Tensor, boxes: list[torch.Tensor], positive: torch.Tensor
    ) -> torch.Tensor:
        """(P,) of the positive (B, R) anchors, whose deltas are (B, R, 4)."""
        anchors, boxes, deltas = anchors.expand_as(deltas)[positive], torch.stack(boxes)[positive], deltas[positive]
        if self.box_reg_loss_type == "giou":
            return giou_loss(self.box2box_transform.apply_deltas(deltas, anchors), boxes, reduction="none")
        wanted = self.box2box_transform.get_deltas(anchors, boxes)
        return smooth_l1_loss(deltas, wanted, self.smooth_l1_beta, reduction="none").sum(dim=1)


def _with_weights(labels: torch.Tensor, matched: torch.Tensor, instances: Instances) -> torch.Tensor:
    """Append to the boxes (R, 4) that anchors are matched to the weight of that instance, 1 where there is none."""
    weights = matched.new_ones(len(matched))
    if len(instances) and instances.has("gt_weights"):
        rows = labels == 1
        same = (matched[rows][:, None] == instances.gt_boxes.tensor[None]).all(dim=2)  # of equal boxes the first
        weights[rows] = instances.gt_weights.to(weights)[same.int().argmax(dim=1)]
    return torch.cat([matched, weights[:, None]], dim=1)
