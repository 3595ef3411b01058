"""Geometry of stacks of binary masks."""

import torch


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
