"""Geometry of stacks of binary masks."""

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks

_CHUNK = 1 << 25  # This many mask pixels are in memory as float32 at once.
_SAME_OBJECT = 0.5  # A mask with at least this IoU with an object is judged by it.
_UNKNOWN = 0.5  # A mask with more than this share of its pixels where nothing is known is not judged.


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return boxes around masks like Detectron2's `BitMasks.get_bounding_boxes`, without a loop or a device change.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) float32 x0, y0, x1, y1 in pixels, where x1 and y1 are the last column and row plus one; zeros for an
        empty mask.
    """
    if not len(masks):
        return torch.zeros(0, 4, device=masks.device)
    sides = []
    for axis in (1, 2):
        profile = masks.any(dim=axis).to(torch.uint8)
        sides += [profile.argmax(dim=1), profile.shape[1] - profile.flip(1).argmax(dim=1)]
    boxes = torch.stack([sides[0], sides[2], sides[1], sides[3]], dim=1).float()
    return boxes * masks.flatten(1).any(dim=1)[:, None]


def join(first: Instances, second: Instances) -> Instances:
    """Concatenate two `Instances` without autocast, which to bfloat16 would refuse the float16 of their maps."""
    with torch.autocast(first.gt_classes.device.type, enabled=False):
        return Instances.cat([first, second])


def intersections(masks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Count the pixels (N, M) float32 that each mask of (N, H, W) bool shares with each mask of (M, H, W) bool."""
    flat = others.flatten(1).float()
    if not len(masks):
        return flat.new_zeros(0, len(others))
    rows = max(1, _CHUNK // max(masks[0].numel(), 1))
    with torch.autocast(masks.device.type, enabled=False):  # Half precision ends at 65,504 pixels.
        return torch.cat([part.flatten(1).float() @ flat.t() for part in masks.split(rows)])


def mask_iou(masks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the IoU (N, M) float32 of bool masks (N, H, W) and (M, H, W); it is 0 for two empty masks."""
    overlap = intersections(masks, others)
    area = masks.flatten(1).sum(1)
    other_area = others.flatten(1).sum(1)
    return overlap / (area[:, None] + other_area[None] - overlap).clamp(min=1)


def paired_iou(masks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the IoU (N,) float32 of each of N bool masks (N, H, W) with its partner; it is 0 for two empty masks."""
    return (masks & others).flatten(1).sum(1) / (masks | others).flatten(1).sum(1).clamp(min=1)


def truth_masks(truth: Instances) -> torch.Tensor:
    """Return annotations' masks (M, H, W) bool on the device of their classes, from BitMasks or PolygonMasks.

    Detectron2's mapper gives no `gt_masks` to an image without an instance.
    """
    if not truth.has("gt_masks"):
        return torch.zeros(0, *truth.image_size, dtype=torch.bool, device=truth.gt_classes.device)
    masks = truth.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *truth.image_size)
    return masks.tensor.to(truth.gt_classes.device)


def class_iou(masks: torch.Tensor, classes: torch.Tensor, truth: Instances) -> torch.Tensor:
    """Return the IoU (N, M) float32 of masks with annotations, 0 where the classes differ.

    Args:
        masks: (N, H, W) bool.
        classes: (N,) class of each mask.
        truth: M annotations in the same frame, with gt_classes and gt_masks; further ones of class -1 are left out.
    """
    real = truth[truth.gt_classes >= 0]
    same_class = classes[:, None] == real.gt_classes.to(classes.device)[None]
    return mask_iou(masks, truth_masks(real).to(masks.device)) * same_class


def unjudged(
    masks: torch.Tensor, classes: torch.Tensor, iou: torch.Tensor, truth: Instances, crowds: Instances | None = None
) -> torch.Tensor:
    """Return (N,) bool: which masks are neither right nor wrong.

    Such a mask shows no annotated object and lies mostly inside void or crowds of its class.

    Args:
        masks: (N, H, W) bool.
        classes: (N,) class of each mask.
        iou: (N, M) result of `class_iou` with the truth; a mask with an IoU of at least 0.5 shows that object.
        truth: annotations in the same frame, of which class -1 marks void.
        crowds: crowds of the image, with gt_classes and gt_masks, or None.
    """
    void = truth_masks(truth[truth.gt_classes < 0]).any(dim=0).to(masks.device)
    inside = _mostly_inside(masks, void)
    for crowd_class in [] if crowds is None else crowds.gt_classes.unique().tolist():
        crowd = truth_masks(crowds[crowds.gt_classes == crowd_class]).any(dim=0).to(masks.device)
        rows = (classes == crowd_class).to(masks.device)
        inside[rows] = _mostly_inside(masks[rows], void | crowd)
    return inside & ~(iou >= _SAME_OBJECT).any(dim=1)


def _mostly_inside(masks: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """Return (N,) bool: which bool masks (N, H, W) have more than half of their pixels in a bool area (H, W)."""
    if not area.any():
        return torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
    return intersections(masks, area[None])[:, 0] > _UNKNOWN * masks.flatten(1).sum(dim=1)
