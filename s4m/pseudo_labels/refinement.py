"""Pseudo-label refinement by SAM (S4M, PR)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances

from s4m.pseudo_labels.masks import tight_boxes
from s4m.pseudo_labels.prompts import sample_points
from s4m.sam import Answer, Embedding, PromptableSegmenter, Prompts
from s4m.sam.embedding_cache import ViewTransform


class Source(NamedTuple):
    """Embeddings of the un-augmented images in place of the views (the embedding cache).

    Attributes:
        embed: the `Embedding` of the whole batch, or a function from a list of indices into the batch to the
            `Embedding` of those images, which is not called when no image has an instance.
        views: for each image of the batch its `ViewTransform`.
    """

    embed: Embedding | Callable[[list[int]], Embedding]
    views: Sequence[ViewTransform]


def refine(
    instances: Sequence[Instances],
    images_rgb: Sequence[torch.Tensor],
    segmenter: PromptableSegmenter,
    *,
    num_points: int,
    generators: Sequence[torch.Generator | None],
    source: Source | tuple | None = None,
) -> list[Instances]:
    """Replace each mask by SAM's answer to points drawn from it; of several answers the one that SAM trusts most.

    The images that have instances are encoded in one call and answered in one call; without any instance SAM is not
    asked at all. An empty answer is rejected: the teacher's mask and box stay.

    Args:
        instances: of each image, with `soft_masks` (N, H, W), `pred_masks` (N, H, W) bool and `pred_boxes`.
        images_rgb: (3, H, W) uint8 RGB, the frames of the instances.
        segmenter: the frozen SAM.
        num_points: positive points drawn from each mask.
        generators: of the CPU, one an image; None: torch's own.
        source: (embed, views) as in `Source`; None: encode `images_rgb`.

    Returns:
        new `Instances` with `pred_masks` and `pred_boxes` of SAM where accepted, the teacher's masks as
        `teacher_masks`, SAM's predicted IoU as `sam_quality` (N,) float32, and `sam_accepted` (N,) bool.
    """
    keep = [i for i, found in enumerate(instances) if len(found)]
    refined = [_unrefined(found) for found in instances]
    if not keep:
        return refined
    points = [sample_points(instances[i].soft_masks, num_points, generators[i]) for i in keep]
    views = None if source is None else [source[1][i] for i in keep]
    if source is None:
        embedding = segmenter.encode([images_rgb[i] for i in keep])
    else:
        embedding = source[0](keep) if callable(source[0]) else source[0][keep]
    answers = ask(segmenter, embedding, points, views, best=True)
    for position, (i, answer) in enumerate(zip(keep, answers, strict=True)):
        logits = answer.masks[:, 0]
        masks = (logits if views is None else views[position].masks_to_view(logits)) > 0
        refined[i] = replace_masks(refined[i], masks, answer.quality[:, 0])
    return refined


def ask(
    segmenter: PromptableSegmenter,
    embedding: Embedding,
    points: Sequence[torch.Tensor],
    views: Sequence[ViewTransform] | None = None,
    *,
    best: bool,
) -> list[Answer]:
    """SAM's candidate masks for positive points, in one call for the batch.

    Args:
        segmenter: the frozen SAM.
        embedding: of the images asked about.
        points: of each image (N, P, 2) x, y pixel indices in the view.
        views: of each image its `ViewTransform`, where the embedding is of the un-augmented image.
        best: only the candidate of highest predicted IoU, else all three.

    Returns:
        one `Answer` an image, in the frame that was embedded.
    """
    if views is not None:
        points = [view.points_to_source(some) for view, some in zip(views, points, strict=True)]
    prompts = [Prompts(some, torch.ones(some.shape[:2], device=some.device)) for some in points]
    return segmenter.decode(embedding, prompts, multimask=True, best=best)


def replace_masks(instances: Instances, masks: torch.Tensor, quality: torch.Tensor) -> Instances:
    """Put SAM's masks in place of the teacher's, except where SAM's is empty.

    Args:
        instances: with `teacher_masks` (N, H, W) bool and `pred_boxes`.
        masks: (N, H, W) bool, in the same frame; quality: (N,) predicted IoU.

    Returns:
        a new `Instances` with `pred_masks`, `pred_boxes`, `sam_quality` and `sam_accepted`.
    """
    device = instances.teacher_masks.device
    masks, quality = masks.to(device), quality.to(device)
    accepted = masks.flatten(1).any(dim=1)
    refined = instances[:]
    refined.pred_masks = torch.where(accepted[:, None, None], masks, instances.teacher_masks)
    refined.pred_boxes = Boxes(torch.where(accepted[:, None], tight_boxes(masks), instances.pred_boxes.tensor))
    refined.sam_quality = quality
    refined.sam_accepted = accepted
    return refined


def _unrefined(instances: Instances) -> Instances:
    """A copy with the fields of a refined one, nothing accepted."""
    copy = instances[:]
    copy.teacher_masks = instances.pred_masks
    copy.sam_quality = instances.scores.new_zeros(len(instances), dtype=torch.float32)
    copy.sam_accepted = torch.zeros_like(instances.scores, dtype=torch.bool)
    return copy
