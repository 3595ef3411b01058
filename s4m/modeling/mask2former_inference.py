"""Conversion of a Mask2Former's logits to Detectron2's `Instances`."""

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from s4m.pseudo_labels.masks import tight_boxes


def resize_logits(
    logits: torch.Tensor, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> torch.Tensor:
    """Cut the image out of mask logits and resize it.

    Args:
        logits: (N, h, w), covering the padded network input.
        padded_size: height and width of that input in pixels.
        image_size: height and width of the image at its top left.
        output_size: height and width that the image shall have.

    Returns:
        (N, *output_size) float32.
    """
    if len(logits) == 0:
        return logits.new_zeros((0, *output_size), dtype=torch.float32)
    full = F.interpolate(logits[None].float(), padded_size, mode="bilinear", align_corners=False)
    full = full[..., : image_size[0], : image_size[1]]
    if tuple(image_size) != tuple(output_size):
        full = F.interpolate(full, output_size, mode="bilinear", align_corners=False)
    return full[0]


def best_classes(class_logits: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query indices, classes and probabilities, (M,) each, of the most probable pairs of query and class.

    The best pair comes first; M is at most `top`. A query may have several of the classes in `class_logits` (Q, K+1).
    """
    probability = class_logits.float().softmax(dim=-1)[:, :-1]
    scores, index = probability.flatten().topk(min(top, probability.numel()))
    return index // probability.shape[1], index % probability.shape[1], scores


def predicted_objects(class_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return index, class and probability, (M,) each, of queries whose most probable class is an object (S4M, PR)."""
    scores, classes = class_logits.float().softmax(dim=-1).max(dim=-1)
    queries = (classes < class_logits.shape[-1] - 1).nonzero()[:, 0]
    return queries, classes[queries], scores[queries]


def detections(logits: torch.Tensor, classes: torch.Tensor, scores: torch.Tensor) -> Instances:
    """Make detections, whose score is the class probability times the mean probability of the mask's pixels.

    Args:
        logits: (N, H, W) mask logits.
        classes: (N,) class of each mask.
        scores: (N,) probability of that class.

    Returns:
        `Instances` of the size H, W with `pred_masks` (M, H, W) bool, `pred_boxes`, `scores`, `pred_classes`; empty
        masks are left out.
    """
    masks = logits > 0
    area = masks.flatten(1).sum(dim=1)
    quality = (logits.sigmoid() * masks).flatten(1).sum(dim=1) / area.clamp(min=1)
    keep = area > 0
    return Instances(
        tuple(logits.shape[1:]),
        pred_masks=masks[keep],
        pred_boxes=Boxes(tight_boxes(masks[keep])),
        scores=(scores * quality)[keep],
        pred_classes=classes[keep],
    )


def soft_predictions(logits: torch.Tensor, classes: torch.Tensor, scores: torch.Tensor) -> Instances:
    """Make predictions for pseudo-labels: `pred_boxes`, `scores`, `pred_classes`, `soft_masks` (N, H, W) in [0, 1]."""
    return Instances(
        tuple(logits.shape[1:]),
        pred_boxes=Boxes(tight_boxes(logits > 0)),
        scores=scores,
        pred_classes=classes,
        soft_masks=logits.sigmoid(),
    )
