"""Selection of the teacher's predictions that become pseudo-labels (S4M, PR)."""

import torch
from detectron2.structures import Instances


def select(instances: Instances, *, score: float | torch.Tensor, min_pixels: float) -> Instances:
    """Keep the confident predictions and make their masks binary.

    A prediction stays if its score exceeds `score`, its soft mask sums to more than `min_pixels`, and at least one
    pixel of it is more probable than 0.5. The result is a new `Instances` with `pred_masks` (M, H, W) bool.

    Args:
        instances: predictions for one image, with `scores` (N,) and `soft_masks` (N, H, W) at the image's size.
        score: least score, exclusive; one number, or (N,) with one for each prediction.
        min_pixels: least sum of the soft mask in pixels, exclusive.
    """
    confident = instances[instances.scores > score]
    soft = confident.soft_masks
    # A half-precision sum over a large mask would overflow.
    large = soft.flatten(1).sum(dim=1, dtype=torch.float32) > min_pixels
    masks = soft > 0.5
    keep = large & masks.flatten(1).any(dim=1)
    selected = confident[keep]
    selected.pred_masks = masks[keep]
    return selected
