"""The boundary-aware consistency for whole-image masks: each object has a frame of its own, as in a mask head."""

from dataclasses import dataclass

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import Boxes, Instances

from s4m.losses.boundary_consistency import BoundaryConsistency
from s4m.modeling.ignored import outside_ignored

_SIDE = 28  # An object's frame has this many cells on each side.
_MARGIN = 0.25  # The frame is larger than the box by this share on each side, to show the object's surroundings.


def object_crops(maps: torch.Tensor, boxes: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Crop each object's maps (N, C, H, W) to its own frame: (N, C, 28, 28) float32, differentiable.

    The frames are `boxes` (N, 4) xyxy in pixels, and a pixel is as long as `scale` cells of the maps.
    """
    index = torch.arange(len(maps), device=maps.device, dtype=torch.float32)[:, None]
    rois = torch.cat([index, boxes.to(index)], dim=1)
    return ROIAlign((_SIDE, _SIDE), scale, 0, aligned=True)(maps.float(), rois)


@dataclass(frozen=True)
class BoundaryTargets:
    """The targets of the boundary-aware consistency for the N objects of one image.

    Attributes:
        boxes: (N, 4) xyxy of the objects' frames in pixels of the network input.
        maps: (N, 3, 28, 28) pseudo-mask, teacher's soft mask and SAM's soft mask in those frames.
        refined: (N,) bool, whether the pseudo-mask is SAM's.
        valid: (N, 28, 28) bool, the cells that count (`outside_ignored`).
    """

    boxes: torch.Tensor
    maps: torch.Tensor
    refined: torch.Tensor
    valid: torch.Tensor

    @classmethod
    def of(cls, instances: Instances, ignored: torch.Tensor | None = None) -> "BoundaryTargets | None":
        """Read the fields that `s4m.pseudo_labels.pipeline.to_targets` gives; return None without them.

        Args:
            instances: the instances of one image, none of them ignored.
            ignored: (H, W) bool, the pixels of the image's ignored regions; None stands for no region.
        """
        if not instances.has("gt_teacher_masks"):
            return None
        boxes = instances.gt_boxes.tensor
        margin = _MARGIN * (boxes[:, 2:] - boxes[:, :2])
        frames = Boxes(torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1))
        frames.clip(instances.image_size)  # There are no logits beyond the image.
        maps = [instances.gt_masks.tensor, instances.gt_teacher_masks, instances.gt_sam_masks]
        crops = object_crops(torch.stack([part.float() for part in maps], dim=1), frames.tensor)
        valid = torch.ones_like(crops[:, 0], dtype=torch.bool)
        if ignored is not None:
            covered = object_crops(ignored.expand(len(crops), 1, *ignored.shape), frames.tensor)[:, 0]
            valid = outside_ignored(covered, crops[:, 0])
        return cls(frames.tensor, crops, instances.gt_refined, valid)


def boundary_losses(
    consistency: BoundaryConsistency, logits: torch.Tensor, targets: BoundaryTargets, rows: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return the loss (n,) float32 of each matched object of one image.

    Args:
        consistency: the loss.
        logits: (n, h, w) mask logits of the matched queries, covering the network input.
        targets: the targets of the image's N objects.
        rows: (n,) index of the object that each query stands for.
        scale: cells of the logits in a pixel of the network input.
    """
    crops = object_crops(logits[:, None], targets.boxes[rows], scale)[:, 0]
    return consistency(crops, *targets.maps[rows].unbind(dim=1), targets.refined[rows], valid=targets.valid[rows])
