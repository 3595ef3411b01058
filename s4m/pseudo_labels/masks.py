"""Geometry of stacks of binary masks."""

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks

_CHUNK = 1 << 25  # mask pixels held in float32 at once
_OF_AN_OBJECT = 0.5  # IoU with it from which a mask is judged by it
_UNKNOWN = 0.5  # a mask with more of its pixels than this where nothing is known is not judged


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Boxes around masks, as Detectron2's `BitMasks.get_bounding_boxes`, without a loop and on the masks' device.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) float32 x0, y0, x1, y1 in pixels, where x1 and y1 are the last column and row plus one; zeros for an
        empty mask.
    """
    if not len(masks):
        return torch.zeros(0, 4, device=masks.device)
    sides = []
    for along in (masks.any(dim=1), masks.any(dim=2)):
        along = along.to(torch.uint8)
        size = along.shape[1]
        sides += [along.argmax(dim=1), size - along.flip(1).argmax(dim=1)]
    boxes = torch.stack([sides[0], sides[2], sides[1], sides[3]], dim=1).float()
    return boxes * masks.flatten(1).any(dim=1)[:, None]


def join(first: Instances, second: Instances) -> Instances:
    """Both, one behind the other; autocast to bfloat16 would refuse the float16 of their maps."""
    with torch.autocast(first.gt_classes.device.type, enabled=False):
        return Instances.cat([first, second])


def intersections(masks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Pixels that each two of bool masks (N, H, W) and (M, H, W) share: (N, M) float32, whatever autocast says."""
    count, pixels = len(masks), max(masks[0].numel() if len(masks) else 1, 1)
    flat, rows = others.flatten(1).float(), max(1, _CHUNK // pixels)
    with torch.autocast(masks.device.type, enabled=False):  # half precision ends at 65,504 pixels
        parts = [masks[start : start + rows].flatten(1).float() @ flat.t() for start in range(0, count, rows)]
    return torch.cat(parts) if parts else flat.new_zeros(0, len(others))


def mask_iou(masks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Intersection over union (N, M) float32 of bool masks (N, H, W) and (M, H, W); of two empty masks zero."""
    overlap = intersections(masks, others)
    area, other_area = masks.flatten(1).sum(1), others.flatten(1).sum(1)
    return overlap / (area[:, None] + other_area[None] - overlap).clamp(min=1)


def paired_iou(masks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Intersection over union (N,) float32 of each of N bool masks (N, H, W) with its partner; of two empty ones 0."""
    overlap, union = (masks & others).flatten(1).sum(1), (masks | others).flatten(1).sum(1)
    return overlap / union.clamp(min=1)


def truth_masks(truth: Instances) -> torch.Tensor:
    """(M, H, W) bool of annotations with `gt_masks` of either kind, on the device of their classes.

    An image without an instance needs no `gt_masks`: Detectron2's mapper gives it none.
    """
    if not truth.has("gt_masks"):
        return torch.zeros(0, *truth.image_size, dtype=torch.bool, device=truth.gt_classes.device)
    masks = truth.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *truth.image_size)
    return masks.tensor.to(truth.gt_classes.device)


def class_iou(masks: torch.Tensor, classes: torch.Tensor, truth: Instances) -> torch.Tensor:
    """IoU (N, M) float32 of masks with annotations, 0 where the classes differ.

    Args:
        masks: (N, H, W) bool; classes: (N,).
        truth: M annotations besides ignored ones (class -1) in the same frame, with gt_classes and gt_masks.
    """
    real, others = truth.gt_classes >= 0, truth_masks(truth)
    others = others[real.to(others.device)].to(masks.device)
    return mask_iou(masks, others) * (classes[:, None] == truth.gt_classes[real].to(classes.device)[None])


def unjudged(
    masks: torch.Tensor, classes: torch.Tensor, iou: torch.Tensor, truth: Instances, crowds: Instances | None = None
) -> torch.Tensor:
    """Which masks are neither right nor wrong: of no object, and mostly inside void or crowds of their class.

    Args:
        masks: (N, H, W) bool; classes: (N,).
        iou: (N, M) of `class_iou` with the truth; from 0.5 a mask is of an object.
        truth: annotations in the same frame, of which class -1 marks void.
        crowds: of the image, with gt_classes and gt_masks; None: there is none.

    Returns:
        (N,) bool.
    """
    void = truth_masks(truth[truth.gt_classes < 0]).any(dim=0).to(masks.device)
    inside = _mostly_inside(masks, void)
    for kind in [] if crowds is None else crowds.gt_classes.unique().tolist():
        crowd = truth_masks(crowds[crowds.gt_classes == kind]).any(dim=0).to(masks.device)
        rows = (classes == kind).to(masks.device)
        inside[rows] = _mostly_inside(masks[rows], void | crowd)
    return inside & ~(iou >= _OF_AN_OBJECT).any(dim=1)


def _mostly_inside(masks: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """Which bool masks (N, H, W) have more than half of their pixels in a bool area (H, W): (N,) bool."""
    if not area.any():
        return torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
    return intersections(masks, area[None])[:, 0] > _UNKNOWN * masks.flatten(1).sum(dim=1)
