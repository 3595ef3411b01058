"""Pseudo-label refinement by SAM (S4M, PR)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances

from s4m.pseudo_labels.candidates import match_candidates, point_prompts, taken_logits
from s4m.pseudo_labels.masks import paired_iou, tight_boxes
from s4m.pseudo_labels.matching import MatchingThresholds
from s4m.pseudo_labels.prompts import sample_points
from s4m.pseudo_labels.view_transform import ViewTransform
from s4m.sam import Embedding, PromptableSegmenter


class Source(NamedTuple):
    """Embeddings of the un-augmented images, which take the place of the views (the embedding cache).

    `embed` turns a list of indices into the batch into the `Embedding` of those images; it is called only if an image
    has an instance. `views` holds the `ViewTransform` of each image of the batch.
    """

    embed: Callable[[list[int]], Embedding]
    views: Sequence[ViewTransform]


def refine(
    instances: Sequence[Instances],
    images_rgb: Sequence[torch.Tensor],
    segmenter: PromptableSegmenter,
    *,
    num_points: int,
    generators: Sequence[torch.Generator | None],
    source: Source | None = None,
    matching: MatchingThresholds | None = None,
    with_logits: bool = False,
) -> list[Instances]:
    """Replace each mask by the answer to points drawn from it that SAM trusts most.

    SAM encodes the images that have instances in one call and answers in one call. An empty answer is rejected: the
    teacher's mask and box stay. With matching, SAM's answers for an image are matched to its instances one to one
    (`match_candidates`), and an instance without a match keeps the teacher's mask and box.

    Args:
        instances: instances of each image with `soft_masks` (N, H, W), `pred_masks` (N, H, W) bool and `pred_boxes`.
        images_rgb: (3, H, W) uint8 RGB views, the frames of the instances.
        segmenter: the frozen SAM.
        num_points: number of positive points drawn from each mask.
        generators: one generator on the CPU for each image; None draws from torch's global one.
        source: embeddings of the un-augmented images; None encodes `images_rgb`.
        matching: thresholds of the matching; None takes the most trusted answer.
        with_logits: whether to keep SAM's mask logits as `sam_logits` (N, H, W) float.

    Returns:
        new `Instances` with SAM's `pred_masks` and `pred_boxes` where accepted; the teacher's masks as `teacher_masks`;
        SAM's predicted IoU as `sam_quality`, the IoU of the teacher's mask with SAM's, taken or not, as
        `sam_agreement`, (N,) float32 each; `sam_accepted` (N,) bool. With matching they also have `match_outcome` (N,)
        int64, an `Outcome`, and `over_segmented` (N,) bool.
    """
    keep = [i for i, labels in enumerate(instances) if len(labels)]
    refined = [_unrefined(labels, matching is not None, with_logits) for labels in instances]
    if not keep:
        return refined
    points = [sample_points(instances[i].soft_masks, num_points, generators[i]) for i in keep]
    views = None if source is None else [source.views[i] for i in keep]
    embedding = segmenter.encode([images_rgb[i] for i in keep]) if source is None else source.embed(keep)
    if matching is None:
        answers = segmenter.decode(embedding, point_prompts(points, views), best=True)
    else:
        answers = match_candidates(segmenter, embedding, points, [refined[i] for i in keep], views, matching)
    for position, (i, answer) in enumerate(zip(keep, answers, strict=True)):
        view = None if views is None else views[position]
        if matching is None:
            logits, quality = answer.masks[:, 0], answer.quality[:, 0]
            logits = logits if view is None else view.masks_to_view(logits)
            agreement = paired_iou(refined[i].teacher_masks, (logits > 0).to(refined[i].teacher_masks.device))
        else:
            candidates, result = answer
            size, agreement = refined[i].image_size, result.agreement
            logits, quality = taken_logits(candidates, result, embedding.frames[position], view, size)
            refined[i].match_outcome, refined[i].over_segmented = result.outcome, result.over_segmented
        refined[i] = replace_masks(refined[i], logits > 0, quality)
        if with_logits:
            refined[i].sam_logits = logits.to(refined[i].pred_masks.device)
        refined[i].sam_agreement = agreement.to(refined[i].pred_masks.device)
    return refined


def replace_masks(instances: Instances, masks: torch.Tensor, quality: torch.Tensor) -> Instances:
    """Put SAM's masks in place of the teacher's, except where SAM's is empty.

    Args:
        instances: N instances with `teacher_masks` (N, H, W) bool and `pred_boxes`.
        masks: (N, H, W) bool masks of SAM in the same frame.
        quality: (N,) IoU that SAM predicts for them.

    Returns:
        a new `Instances` with `pred_masks`, `pred_boxes`, `sam_quality` and `sam_accepted`.
    """
    masks = masks.to(instances.teacher_masks.device)
    accepted = masks.flatten(1).any(dim=1)
    refined = instances[:]
    refined.pred_masks = torch.where(accepted[:, None, None], masks, instances.teacher_masks)
    refined.pred_boxes = Boxes(torch.where(accepted[:, None], tight_boxes(masks), instances.pred_boxes.tensor))
    refined.sam_quality = quality.to(masks.device)
    refined.sam_accepted = accepted
    return refined


def _unrefined(instances: Instances, matching: bool, with_logits: bool) -> Instances:
    """Return a copy with the fields of a refined one, in which nothing is accepted."""
    copy = instances[:]
    copy.teacher_masks = instances.pred_masks
    copy.sam_quality = instances.scores.new_zeros(len(instances), dtype=torch.float32)
    copy.sam_agreement = copy.sam_quality
    copy.sam_accepted = torch.zeros_like(instances.scores, dtype=torch.bool)
    if with_logits:
        copy.sam_logits = torch.zeros_like(instances.soft_masks)
    if matching:
        copy.match_outcome = torch.zeros_like(instances.scores, dtype=torch.int64)
        copy.over_segmented = torch.zeros_like(copy.sam_accepted)
    return copy
