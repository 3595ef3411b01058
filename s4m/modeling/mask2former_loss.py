"""transformers' Mask2Former criterion for pseudo-labels: weights per instance, ignored regions, soft masks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss, sample_point

from s4m.losses.boundary_consistency import BoundaryConsistency
from s4m.losses.weighted import global_count
from s4m.modeling.ignored import IGNORED_OVERLAP, outside_ignored
from s4m.modeling.mask2former_boundary import BoundaryTargets, boundary_losses
from s4m.pseudo_labels.masks import truth_masks


@dataclass(frozen=True)
class MaskTargets:
    """Ground truth of one image in the frame of the padded network input.

    Attributes:
        classes: (N,) int64, none of them ignored.
        masks: (N, H, W) bool, or float probabilities in [0, 1].
        weights: (N,) float weights of the instances.
        ignored: (H, W) bool, the pixels of ignored regions; None without such a region.
        boundary: targets of the boundary-aware consistency; None without its fields.
    """

    classes: torch.Tensor
    masks: torch.Tensor
    weights: torch.Tensor
    ignored: torch.Tensor | None
    boundary: BoundaryTargets | None = None


def to_mask_targets(instances: Instances, padded_size: tuple[int, int]) -> MaskTargets:
    """Make the targets of one image.

    Args:
        instances: they have `gt_classes` (N,), -1 for an ignored region; `gt_masks`, unless N is 0; optionally
            `gt_weights` (N,) and `gt_soft_masks` (N, H, W) in [0, 1], which take the place of the masks.
        padded_size: height and width of the network input; the padding is background.
    """
    height, width = instances.image_size
    padding = (0, padded_size[1] - width, 0, padded_size[0] - height)
    classes = instances.gt_classes
    weights = instances.gt_weights.float() if instances.has("gt_weights") else torch.ones_like(classes).float()
    labeled = classes >= 0
    binary = None if labeled.all() and instances.has("gt_soft_masks") else truth_masks(instances)
    masks = instances.gt_soft_masks.float() if instances.has("gt_soft_masks") else binary
    ignored = None if labeled.all() else binary[~labeled].any(dim=0)
    boundary = BoundaryTargets.of(instances[labeled], ignored)
    ignored = None if ignored is None else F.pad(ignored, padding)
    return MaskTargets(classes[labeled], F.pad(masks[labeled], padding), weights[labeled], ignored, boundary)


def inside_ignored(mask_logits: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
    """Return (Q,) bool: which predicted masks lie mostly inside ignored regions; an empty mask does not.

    Args:
        mask_logits: (Q, h, w).
        ignored: (H, W) bool in the same frame at any resolution.
    """
    masks = (mask_logits > 0).float().flatten(1)
    share = F.interpolate(ignored[None, None].float(), mask_logits.shape[-2:], mode="area").flatten()
    return masks @ share > IGNORED_OVERLAP * masks.sum(dim=1)


class PseudoLabelMask2FormerLoss(Mask2FormerLoss):
    """Classification, mask and dice losses after bipartite matching, summed over the decoder's layers.

    Without weights, ignored regions and soft masks they equal those of transformers (for the same random numbers),
    except that counts go over all processes.
    """

    def __init__(self, config: Mask2FormerConfig, boundary: BoundaryConsistency | None = None):
        """
        Args:
            config: transformers' configuration, with the sizes and the weights of the loss.
            boundary: an additional loss of the last layer's masks on targets that have its maps, or None.
        """
        weights = {"class": config.class_weight, "mask": config.mask_weight, "dice": config.dice_weight}
        super().__init__(config, {f"loss_{name}": weight for name, weight in weights.items()})
        self.boundary = boundary

    def forward(
        self, class_logits: list[torch.Tensor], mask_logits: list[torch.Tensor], targets: list[MaskTargets]
    ) -> dict[str, torch.Tensor]:
        """Return the weighted scalars `loss_class`, `loss_mask` and `loss_dice`, and `loss_boundary` if there is one.

        Args:
            class_logits: (B, Q, K+1) for each layer; the last class is "no object".
            mask_logits: (B, Q, h, w) for each layer, covering the padded input.
            targets: the targets of each image.
        """
        device = class_logits[0].device
        count = global_count(sum(len(t.classes) for t in targets), device)
        true_masks = [t.masks for t in targets]
        true_classes = [t.classes for t in targets]
        total = dict.fromkeys(self.weight_dict, torch.zeros((), device=device))
        with torch.autocast(device.type, enabled=False):
            last = class_logits[-1], mask_logits[-1]
            for classes, masks in [last, *zip(class_logits[:-1], mask_logits[:-1], strict=True)]:
                matches = self.matcher(masks.float(), classes.float(), true_masks, true_classes)
                pairs = [(queries.to(device), labels.to(device)) for queries, labels in matches]
                mask, dice = self._mask_losses(masks, targets, pairs)
                class_loss = self._class_loss(classes.float(), masks, targets, pairs)
                losses = {"loss_mask": mask / count, "loss_dice": dice / count, "loss_class": class_loss}
                for name, loss in losses.items():
                    total[name] = total[name] + self.weight_dict[name] * loss
                if masks is last[1] and self.boundary is not None and all(t.boundary is not None for t in targets):
                    total["loss_boundary"] = self._boundary_loss(masks, targets, pairs) / count
        return total

    def _boundary_loss(self, masks: torch.Tensor, targets: list[MaskTargets], pairs: list[tuple]) -> torch.Tensor:
        """Return the weighted sum over the matched instances, on the scale of the mask loss."""
        total = masks.flatten()[:0].float().sum()  # The sum stays in the graph where no image has an instance.
        for logits, target, (queries, labels) in zip(masks, targets, pairs, strict=True):
            scale = logits.shape[-1] / target.masks.shape[-1]
            losses = boundary_losses(self.boundary, logits[queries], target.boundary, labels, scale)
            total = total + (target.weights[labels] * losses).sum()
        return self.weight_dict["loss_mask"] * total

    def _class_loss(
        self, logits: torch.Tensor, masks: torch.Tensor, targets: list[MaskTargets], pairs: list[tuple]
    ) -> torch.Tensor:
        """Return the cross entropy of all queries but the unmatched ones inside ignored regions."""
        classes = torch.full(logits.shape[:2], self.num_labels, dtype=torch.int64, device=logits.device)
        weights = torch.full(logits.shape[:2], self.eos_coef, device=logits.device)
        for i, (target, (queries, labels)) in enumerate(zip(targets, pairs, strict=True)):
            if target.ignored is not None:
                weights[i, inside_ignored(masks[i].detach(), target.ignored)] = 0
            classes[i, queries] = target.classes[labels]
            weights[i, queries] = 1.0
        count = global_count(weights.sum(), logits.device)
        for i, (target, (queries, labels)) in enumerate(zip(targets, pairs, strict=True)):
            weights[i, queries] = target.weights[labels]
        return (weights * F.cross_entropy(logits.transpose(1, 2), classes, reduction="none")).sum() / count

    def _mask_losses(
        self, masks: torch.Tensor, targets: list[MaskTargets], pairs: list[tuple]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weighted sums of binary cross entropy and dice over the matched instances, at sampled points.

        Points in ignored regions count only if they are the instance's own.
        """
        logits = torch.cat([masks[i, queries] for i, (queries, _) in enumerate(pairs)])[:, None].float()
        if len(logits) == 0:
            return logits.sum(), logits.sum()
        weights = torch.cat([t.weights[labels] for t, (_, labels) in zip(targets, pairs, strict=True)])
        with torch.no_grad():
            points = self.sample_points_using_uncertainty(
                logits, self.calculate_uncertainty, self.num_points, self.oversample_ratio, self.importance_sample_ratio
            )
            split = points.split([len(labels) for _, labels in pairs])
            images = zip(targets, pairs, split, strict=True)
            values = [_at_points(target, labels, xy) for target, (_, labels), xy in images]
            goals, valid = (torch.cat(parts) for parts in zip(*values, strict=True))
        predicted = sample_point(logits, points, align_corners=False)[:, 0]
        entropy = F.binary_cross_entropy_with_logits(predicted, goals, reduction="none") * valid
        entropy = entropy.sum(dim=1) / valid.sum(dim=1).clamp(min=1)
        probability = predicted.sigmoid() * valid
        goals = goals * valid
        overlap = (probability * goals).sum(dim=1)
        size = probability.sum(dim=1) + goals.sum(dim=1)
        dice = 1 - (2 * overlap + 1) / (size + 1)
        return (weights * entropy).sum(), (weights * dice).sum()


def _at_points(target: MaskTargets, labels: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the masks of n instances at their points (n, P, 2): (n, P) float values, and (n, P) bool which count."""
    values = sample_point(target.masks[labels][:, None].float(), points, align_corners=False)[:, 0]
    if target.ignored is None:
        return values, torch.ones_like(values, dtype=torch.bool)
    area = target.ignored.float().expand(len(labels), 1, *target.ignored.shape)
    return values, outside_ignored(sample_point(area, points, align_corners=False)[:, 0], values)
