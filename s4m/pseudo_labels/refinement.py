"""Pseudo-label refinement by SAM (S4M, PR)."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances

from s4m.pseudo_labels.masks import paired_iou, tight_boxes
from s4m.pseudo_labels.matching import Guards, match
from s4m.pseudo_labels.prompts import sample_points
from s4m.sam import Answer, Embedding, PromptableSegmenter, Prompts
from s4m.sam.embedding_cache import ViewTransform
from s4m.sam.structures import Frame

# Candidates are compared on every k-th pixel of larger views: SAM's own masks are not finer. Objects of less than two
# such pixels (8 pixels of a 1024 pixel view) are judged by chance.
_COMPARED_SIDE = 256
_CHUNK = 1 << 24  # pixels of enlarged candidates held at once


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
    guards: Guards | None = None,
    with_logits: bool = False,
) -> list[Instances]:
    """Replace each mask by SAM's answer to points drawn from it; of several answers the one that SAM trusts most.

    The images that have instances are encoded in one call and answered in one call; without any instance SAM is not
    asked at all. An empty answer is rejected: the teacher's mask and box stay. With guards SAM is asked by the box too,
    and all its answers of an image are matched to the instances one to one (`s4m.pseudo_labels.matching`); what is not
    matched keeps the teacher's mask and box.

    Args:
        instances: of each image, with `soft_masks` (N, H, W), `pred_masks` (N, H, W) bool and `pred_boxes`.
        images_rgb: (3, H, W) uint8 RGB, the frames of the instances.
        segmenter: the frozen SAM.
        num_points: positive points drawn from each mask.
        generators: of the CPU, one an image; None: torch's own.
        source: (embed, views) as in `Source`; None: encode `images_rgb`.
        guards: of the matching; None: the most trusted answer is taken.
        with_logits: keep SAM's mask logits.

    Returns:
        new `Instances` with `pred_masks` and `pred_boxes` of SAM where accepted, the teacher's masks as
        `teacher_masks`, SAM's predicted IoU as `sam_quality` (N,) float32, the IoU of the teacher's mask with SAM's,
        taken or not, as `sam_agreement` (N,) float32, and `sam_accepted` (N,) bool; with logits `sam_logits` (N, H, W)
        float besides, and with guards `match_outcome` (N,) int64 of `Outcome` and `over_segmented` (N,) bool besides.
    """
    keep = [i for i, found in enumerate(instances) if len(found)]
    refined = [_unrefined(found, guards is not None, with_logits) for found in instances]
    if not keep:
        return refined
    points = [sample_points(instances[i].soft_masks, num_points, generators[i]) for i in keep]
    views = None if source is None else [source[1][i] for i in keep]
    if source is None:
        embedding = segmenter.encode([images_rgb[i] for i in keep])
    else:
        embedding = source[0](keep) if callable(source[0]) else source[0][keep]
    boxes = [instances[i].pred_boxes.tensor for i in keep] if guards is not None and guards.box else None
    answers = ask(segmenter, embedding, points, views, boxes, best=guards is None)
    for position, (i, answer) in enumerate(zip(keep, answers, strict=True)):
        view = None if views is None else views[position]
        if guards is None:
            logits, quality = answer.masks[:, 0], answer.quality[:, 0]
            logits = logits if view is None else view.masks_to_view(logits)
            agreement = paired_iou(refined[i].teacher_masks, (logits > 0).to(refined[i].teacher_masks.device))
        else:
            logits, quality, agreement = _matched(refined[i], answer, embedding.frames[position], view, guards)
        refined[i] = replace_masks(refined[i], logits > 0, quality)
        if with_logits:
            refined[i].sam_logits = logits.to(refined[i].pred_masks.device)
        refined[i].sam_agreement = agreement.to(refined[i].pred_masks.device)
    return refined


def ask(
    segmenter: PromptableSegmenter,
    embedding: Embedding,
    points: Sequence[torch.Tensor],
    views: Sequence[ViewTransform] | None = None,
    boxes: Sequence[torch.Tensor] | None = None,
    *,
    best: bool,
) -> list[Answer]:
    """SAM's masks for positive points, and for boxes besides, in one call for the batch.

    Args:
        segmenter: the frozen SAM.
        embedding: of the images asked about.
        points: of each image (N, P, 2) x, y pixel indices in the view.
        views: of each image its `ViewTransform`, where the embedding is of the un-augmented image.
        boxes: of each image (N, 4) xyxy in pixels of the view, asked about beside the points; not with `best`.
        best: only the mask of highest predicted IoU, at the size of the frame that was embedded; else all candidates
            as the decoder gives them.

    Returns:
        one `Answer` an image: masks (N, 1, H, W) of the best, or (N, 3, s, s), the box's three behind the points'.
    """
    if views is not None:
        points = [view.points_to_source(some) for view, some in zip(views, points, strict=True)]
    prompts = [Prompts(some, torch.ones(some.shape[:2], device=some.device)) for some in points]
    if best:
        return segmenter.decode(embedding, prompts, multimask=True, best=True)
    if boxes is None:
        return segmenter.decode(embedding, prompts, multimask=True, enlarge=False)
    for some, view in zip(boxes, views or [None] * len(boxes), strict=True):
        nothing = some.new_zeros(len(some), 0, 2)
        prompts.append(Prompts(nothing, nothing[..., 0], some if view is None else _boxes_to_source(some, view)))
    twice = embedding[[*range(len(points))] * 2]
    answers = segmenter.decode(twice, prompts, multimask=True, enlarge=False)
    return [
        Answer(torch.cat([one.masks, other.masks], dim=1), torch.cat([one.quality, other.quality], dim=1))
        for one, other in zip(answers[: len(points)], answers[len(points) :], strict=True)
    ]


def _boxes_to_source(boxes: torch.Tensor, view: ViewTransform) -> torch.Tensor:
    """Boxes (N, 4) xyxy of the view -> of the source, which a view may mirror."""
    corners = view.points_to_source(boxes.reshape(-1, 2, 2))
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def _in_view(
    logits: torch.Tensor, frame: Frame, view: ViewTransform | None, size: tuple[int, int], stride: int
) -> Iterator[torch.Tensor]:
    """Logits (M, s, s) of the segmenter's whole input -> in chunks (m, h, w), each `stride`-th pixel of the view."""
    for some in logits.split(max(1, _CHUNK // (size[0] * size[1]))):
        enlarged = frame.masks_to_image(some[None])[0]
        yield (enlarged if view is None else view.masks_to_view(enlarged))[:, ::stride, ::stride]


def _matched(
    found: Instances, answer: Answer, frame: Frame, view: ViewTransform | None, guards: Guards
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Match an image's candidates (N, K, s, s) to its instances, and note the outcome in them.

    Returns:
        (N, H, W) logits of masks in the view, empty where nothing was matched, (N,) their predicted IoU, there that of
        the most trusted answer, and (N,) `Match.agreement`.
    """
    size, logits = found.image_size, answer.masks.flatten(0, 1)
    stride = -(-max(size) // _COMPARED_SIDE)
    candidates = torch.cat([some > 0 for some in _in_view(logits, frame, view, size, stride)])
    candidates = candidates.unflatten(0, answer.quality.shape)
    teacher = found.teacher_masks[:, ::stride, ::stride].to(candidates.device)
    result = match(teacher, candidates, answer.quality, guards)
    found.match_outcome, found.over_segmented = result.outcome, result.over_segmented
    first = torch.tensor([parts[0] if parts else -1 for parts in result.parts], device=logits.device)
    matched, trust = first >= 0, answer.quality.flatten()
    chosen = torch.where(matched[:, None, None], logits[first], -1.0)
    quality = torch.where(matched, trust[first], answer.quality.amax(dim=1))
    for row, parts in enumerate(result.parts):
        if len(parts) > 1:
            chosen[row], quality[row] = logits[parts].amax(dim=0), trust[parts].mean()
    return torch.cat(list(_in_view(chosen, frame, view, size, 1))), quality, result.agreement


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


def _unrefined(instances: Instances, matching: bool, with_logits: bool) -> Instances:
    """A copy with the fields of a refined one, nothing accepted."""
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
