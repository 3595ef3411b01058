"""ROI heads that learn from pseudo-labels with weights per instance, ignored regions and soft masks.

Ground truth and pseudo-labels are `Instances` in the frame of the network's input image with `gt_boxes`, `gt_classes`
(-1 marks an ignored region) and `gt_masks`. Optional fields are `gt_weights` (N,), `gt_soft_masks` (N, H, W) in [0, 1]
and, for the boundary-aware consistency, `gt_teacher_masks`, `gt_sam_masks` (N, H, W) in [0, 1] and `gt_refined` (N,)
bool. Without the optional fields all losses equal Detectron2's own.
"""

import math

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ROIAlign, ShapeSpec, cat
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, _log_classification_stats
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances, PolygonMasks

from s4m.losses.boundary_consistency import BoundaryConsistency
from s4m.losses.weighted import box_losses, global_count
from s4m.modeling.ignored import inside_ignored, outside_ignored, split_ignored
from s4m.pseudo_labels.masks import truth_masks

# These fields are too large to be copied to every proposal.
_MAPS = ("gt_masks", "gt_soft_masks", "gt_teacher_masks", "gt_sam_masks")


def _instance_weights(proposals: list[Instances], num_classes: int) -> torch.Tensor:
    """Return the weight (R,) of each proposal: the instance's on foreground, 1 on background, 0 on ignored ones."""
    weights = []
    for p in proposals:
        weight = torch.ones_like(p.gt_classes, dtype=torch.float32)
        foreground = (p.gt_classes >= 0) & (p.gt_classes < num_classes)
        if p.has("gt_weights"):
            weight = torch.where(foreground, p.gt_weights.to(weight), weight)
        weights.append(weight * (p.gt_classes >= 0))
    return cat(weights, dim=0)


def box_head_losses(
    predictor: FastRCNNOutputLayers, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
) -> dict[str, torch.Tensor]:
    """Return `loss_cls` and `loss_box_reg`, weighted for each proposal and divided by the count over all processes.

    Args:
        predictor: the box predictor, which holds the classes, the type of box regression and the loss weights.
        predictions: scores (R, K+1) and deltas (R, 4K) or (R, 4).
        proposals: sampled proposals with `proposal_boxes`, `gt_classes` (-1 is ignored), and, where an image has
            labels, `gt_boxes` and `gt_weights`.
    """
    scores, deltas = predictions
    classes = cat([p.gt_classes for p in proposals], dim=0)
    _log_classification_stats(scores[classes >= 0], classes[classes >= 0])
    weights = _instance_weights(proposals, predictor.num_classes)
    count = global_count((classes >= 0).sum(), scores.device)
    entropy = F.cross_entropy(scores.float(), classes, reduction="none", ignore_index=-1)
    boxes = cat([p.proposal_boxes.tensor for p in proposals], dim=0)
    targets = cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals], dim=0)
    index = torch.nonzero((classes >= 0) & (classes < predictor.num_classes)).flatten()
    deltas = deltas.float()
    if deltas.shape[1] == 4:
        predicted = deltas[index]
    else:
        predicted = deltas.view(-1, predictor.num_classes, 4)[index, classes[index]]
    location = box_losses(predictor, predicted, boxes[index], targets[index])
    sums = {"loss_cls": (weights * entropy).sum(), "loss_box_reg": (weights[index] * location).sum()}
    return {key: value / count * predictor.loss_weight.get(key, 1.0) for key, value in sums.items()}


def _to_single_precision(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """Serve as a forward hook: under autocast a float16 sigmoid would round all logits above 8.3 to 1."""
    return output.float()


def mask_targets(proposals: Instances, labels: Instances, side: int) -> torch.Tensor:
    """Return the mask head's targets (R, side, side) for one image: 0 or 1, or soft where it has `gt_soft_masks`.

    Args:
        proposals: R foreground proposals with `proposal_boxes` and `gt_index` (R,) into `labels`.
        labels: the image's instances with `gt_masks` (BitMasks or PolygonMasks) or `gt_soft_masks` (N, H, W) in [0, 1].
        side: number of cells on each side of a target.
    """
    boxes = proposals.proposal_boxes.tensor
    index = proposals.gt_index
    soft = labels.has("gt_soft_masks")
    if not soft and isinstance(labels.gt_masks, PolygonMasks):
        return labels.gt_masks[index].crop_and_resize(boxes, side).float()
    source = labels.gt_soft_masks if soft else labels.gt_masks.tensor
    aligned = _align(source[:, None], boxes, index, side)[:, 0]
    return aligned if soft else (aligned >= 0.5).float()


def _align(maps: torch.Tensor, boxes: torch.Tensor, index: torch.Tensor, side: int) -> torch.Tensor:
    """Crop the map of `index` (R,) among (N, C, H, W) to each of the boxes (R, 4): (R, C, side, side) float."""
    rois = torch.cat([index[:, None].to(boxes), boxes], dim=1)
    return ROIAlign((side, side), 1.0, 0, aligned=True)(maps.to(boxes), rois)


def _counted(proposals: Instances, labels: Instances, targets: torch.Tensor) -> torch.Tensor:
    """Apply `outside_ignored` to the mask targets (R, side, side) of an image's R proposals."""
    ignored = labels.gt_classes < 0
    if not ignored.any():
        return torch.ones_like(targets, dtype=torch.bool)
    area = truth_masks(labels[ignored]).any(dim=0)
    boxes = proposals.proposal_boxes.tensor
    index = torch.zeros(len(boxes), device=boxes.device)
    return outside_ignored(_align(area[None, None], boxes, index, targets.shape[-1])[:, 0], targets)


@ROI_HEADS_REGISTRY.register()
class PseudoLabelROIHeads(StandardROIHeads):
    """StandardROIHeads for pseudo-labels; parameters have Detectron2's names and load there."""

    learns_from_pseudo_labels = True

    @configurable
    def __init__(self, *, boundary: BoundaryConsistency | None = None, **kwargs):
        """
        Args:
            boundary: an additional loss of the mask head on targets that have its fields, or None.
            kwargs: arguments of StandardROIHeads.
        """
        super().__init__(**kwargs)
        self.boundary = boundary

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read StandardROIHeads' arguments and `S4M.BOUNDARY`."""
        return {**super().from_config(cfg, input_shape), "boundary": BoundaryConsistency.read(cfg)}

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        if cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE:
            raise ValueError("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE is not supported by PseudoLabelROIHeads.")
        if cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE not in ("smooth_l1", "giou"):
            raise ValueError("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE must be smooth_l1 or giou for PseudoLabelROIHeads.")
        return super()._init_box_head(cfg, input_shape)

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        parts = super()._init_mask_head(cfg, input_shape)
        if isinstance(parts.get("mask_head"), MaskRCNNConvUpsampleHead):
            parts["mask_head"].predictor.register_forward_hook(_to_single_precision)
        return parts

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Run as Detectron2's; `targets` may hold `gt_weights`, `gt_soft_masks` and ignored regions."""
        if not self.training:
            return super().forward(images, features, proposals, targets)
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._box_losses(features, proposals)
        if self.mask_on:
            losses.update(self._mask_losses(features, proposals, targets))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Sample as Detectron2 does; masks get an index `gt_index`, and background in ignored regions gets class -1."""
        without_maps = []
        for image in targets:
            fields = {k: v for k, v in image.get_fields().items() if k not in _MAPS}
            index = torch.arange(len(image), device=image.gt_classes.device)
            without_maps.append(split_ignored(Instances(image.image_size, **fields, gt_index=index))[0])
        sampled = super().label_and_sample_proposals(proposals, without_maps)
        for p, image in zip(sampled, targets, strict=True):
            background = p.gt_classes == self.num_classes
            p.gt_classes[background & inside_ignored(p.proposal_boxes, split_ignored(image)[1])] = -1
        return sampled

    def _box_losses(self, features: dict[str, torch.Tensor], proposals: list[Instances]) -> dict[str, torch.Tensor]:
        """Run Detectron2's `_forward_box` with `box_head_losses` in place of the predictor's own losses."""
        levels = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(levels, [p.proposal_boxes for p in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        losses = box_head_losses(self.box_predictor, predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                predicted = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
            for p, boxes in zip(proposals, predicted, strict=True):
                p.proposal_boxes = Boxes(boxes)
        return losses

    def _mask_losses(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """Return the weighted binary cross entropy, averaged over each instance's cells and over all processes.

        Cells of ignored regions count only if they are the instance's own. `loss_boundary` joins `loss_mask` where the
        heads have this loss and the targets have its fields.
        """
        foreground, _ = select_foreground_proposals(proposals, self.num_classes)
        levels = [features[name] for name in self.mask_in_features]
        logits = self.mask_head.layers(self.mask_pooler(levels, [p.proposal_boxes for p in foreground]))
        with_boundary = self.boundary is not None and all(labels.has("gt_teacher_masks") for labels in targets)
        count = global_count(len(logits), logits.device)
        if len(logits) == 0:
            return dict.fromkeys(["loss_mask"] + ["loss_boundary"] * with_boundary, logits.sum() * 0)
        pairs = [(p, labels) for p, labels in zip(foreground, targets, strict=True) if len(p)]
        mask_goals = [mask_targets(p, labels, logits.shape[-1]) for p, labels in pairs]
        valid = cat([_counted(*pair, goal) for pair, goal in zip(pairs, mask_goals, strict=True)], dim=0)
        classes = cat([p.gt_classes for p, _ in pairs], dim=0)
        weights = _instance_weights([p for p, _ in pairs], self.num_classes)
        column = torch.zeros_like(classes) if logits.shape[1] == 1 else classes
        chosen = logits[torch.arange(len(logits), device=logits.device), column].float()
        entropy = F.binary_cross_entropy_with_logits(chosen, cat(mask_goals, dim=0), reduction="none")
        losses = {"loss_mask": (entropy * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)}
        if with_boundary:
            losses["loss_boundary"] = self._boundary_losses(chosen, valid, pairs)
        return {key: (weights * loss).sum() / count * self.mask_head.loss_weight for key, loss in losses.items()}

    def _boundary_losses(
        self, logits: torch.Tensor, valid: torch.Tensor, pairs: list[tuple[Instances, Instances]]
    ) -> torch.Tensor:
        """Return the boundary-aware consistency (R,) of logits (R, side, side), of which `valid` cells count.

        Objects often end where their box does, so the targets get a margin as wide as the band.
        """
        side = logits.shape[-1]
        margin = math.ceil(self.boundary.width * side)
        wide_side = side + 2 * margin
        maps = []
        refined = []
        for proposals, labels in pairs:
            index = proposals.gt_index
            boxes = proposals.proposal_boxes.tensor
            border = (boxes[:, 2:] - boxes[:, :2]) * (margin / side)
            boxes = torch.cat([boxes[:, :2] - border, boxes[:, 2:] + border], dim=1)
            larger = Instances(proposals.image_size, proposal_boxes=Boxes(boxes), gt_index=index)
            soft = [_align(m[:, None], boxes, index, wide_side) for m in (labels.gt_teacher_masks, labels.gt_sam_masks)]
            maps.append(torch.cat([mask_targets(larger, labels, wide_side)[:, None], *soft], dim=1))
            refined.append(labels.gt_refined[index])
        logits, valid = (F.pad(cells, [margin] * 4) for cells in (logits, valid))
        return self.boundary(logits, *cat(maps, dim=0).unbind(dim=1), cat(refined, dim=0), valid=valid)
