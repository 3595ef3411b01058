"""SAM's candidates for the instances of an image: to points, and to boxes of what those leave without a mask."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from detectron2.structures import Instances

from s4m.pseudo_labels.matching import Guards, Match, Outcome, match
from s4m.pseudo_labels.view_transform import ViewTransform
from s4m.sam import Answer, Embedding, PromptableSegmenter, Prompts
from s4m.sam.structures import Frame

# Candidates are compared on every k-th pixel of larger views: SAM's own masks are not finer. Objects of less than two
# such pixels (8 pixels of a 1024 pixel view) are judged by chance.
_COMPARED_SIDE = 256
_CHUNK = 1 << 24  # pixels of enlarged candidates held at once


class Candidates(NamedTuple):
    """K candidates for each of N instances, C of them real: of an instance that was not asked about they are empty.

    Attributes:
        masks: (N, K, h, w) bool, every k-th pixel of the view.
        quality: (N, K) SAM's predicted IoU; -inf of an empty one, which nobody trusts.
        logits: (C, s, s) of the segmenter's whole input.
        place: (N, K) int64 index into `logits`, 0 of an empty one.
    """

    masks: torch.Tensor
    quality: torch.Tensor
    logits: torch.Tensor
    place: torch.Tensor

    def behind(self, rows: torch.Tensor, others: "Candidates") -> "Candidates":
        """These and, behind them, the others, which are of the instances `rows` (n,) alone."""
        shape = (len(self.quality), others.quality.shape[1])
        masks = self.masks.new_zeros(*shape, *self.masks.shape[2:])
        quality, place = self.quality.new_full(shape, -torch.inf), self.place.new_zeros(shape)
        masks[rows], quality[rows], place[rows] = others.masks, others.quality, others.place + len(self.logits)
        return Candidates(
            torch.cat([self.masks, masks], dim=1),
            torch.cat([self.quality, quality], dim=1),
            torch.cat([self.logits, others.logits]),
            torch.cat([self.place, place], dim=1),
        )


def in_view(
    logits: torch.Tensor, frame: Frame, view: ViewTransform | None, size: tuple[int, int], stride: int = 1
) -> Iterator[torch.Tensor]:
    """Logits (M, s, s) of the segmenter's whole input -> in chunks (m, h, w), each `stride`-th pixel of the view."""
    for part in logits.split(max(1, _CHUNK // (size[0] * size[1]))):
        enlarged = frame.masks_to_image(part[None])[0]
        yield (enlarged if view is None else view.masks_to_view(enlarged))[:, ::stride, ::stride]


def point_prompts(points: Sequence[torch.Tensor], views: Sequence[ViewTransform] | None) -> list[Prompts]:
    """Prompts of positive points (N, P, 2), x, y pixel indices in the views."""
    if views is not None:
        points = [view.points_to_source(own) for view, own in zip(views, points, strict=True)]
    return [Prompts(own, torch.ones(own.shape[:2], device=own.device)) for own in points]


def box_prompts(boxes: torch.Tensor, view: ViewTransform | None) -> Prompts:
    """Prompts of boxes (N, 4) xyxy in pixels of the view, which may mirror its source."""
    if view is not None:
        corners = view.points_to_source(boxes.reshape(-1, 2, 2))
        boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    nothing = boxes.new_zeros(len(boxes), 0, 2)
    return Prompts(nothing, nothing[..., 0], boxes)


def match_candidates(
    segmenter: PromptableSegmenter,
    embedding: Embedding,
    points: Sequence[torch.Tensor],
    instances: Sequence[Instances],
    views: Sequence[ViewTransform] | None,
    guards: Guards,
) -> list[tuple[Candidates, Match]]:
    """Ask SAM by points and match its answers; by box, where it may be asked so, about what was left without a mask.

    The second question costs nothing where the answers to the first one stand for all instances. Parts are merged
    last, when all answers are there.

    Args:
        segmenter: the frozen SAM.
        embedding: of the images.
        points: of each image (N, P, 2) x, y pixel indices in the view.
        instances: of each image, N >= 1, with `teacher_masks` (N, H, W) bool and `pred_boxes` in the view.
        views: of each image its `ViewTransform`, where the embedding is of the un-augmented image.
        guards: of the matching.

    Returns:
        of each image its candidates and which of them were taken.
    """
    images = list(zip(instances, embedding.frames, views or [None] * len(instances), strict=True))
    answers = segmenter.decode(embedding, point_prompts(points, views), enlarge=False)
    offered = [_candidates(answer, *image) for answer, image in zip(answers, images, strict=True)]
    first = replace(guards, merge=guards.merge and not guards.box)
    matches = [(own, _match(image[0], own, first)) for own, image in zip(offered, images, strict=True)]
    if not guards.box:
        return matches
    left = {i: (result.outcome != Outcome.MATCHED).nonzero()[:, 0] for i, (_, result) in enumerate(matches)}
    left = {i: rows for i, rows in left.items() if len(rows)}
    if not left:
        return matches
    prompts = [box_prompts(instances[i].pred_boxes.tensor[rows], images[i][2]) for i, rows in left.items()]
    answers = segmenter.decode(embedding[list(left)], prompts, enlarge=False)
    for (i, rows), answer in zip(left.items(), answers, strict=True):
        candidates = offered[i].behind(rows.to(offered[i].masks.device), _candidates(answer, *images[i]))
        matches[i] = candidates, _match(instances[i], candidates, guards)
    return matches


def _stride(size: tuple[int, int]) -> int:
    return -(-max(size) // _COMPARED_SIDE)


def _candidates(answer: Answer, instances: Instances, frame: Frame, view: ViewTransform | None) -> Candidates:
    """Those of an answer (n, K, s, s) about an image."""
    size, logits = instances.image_size, answer.masks.flatten(0, 1)
    masks = torch.cat([part > 0 for part in in_view(logits, frame, view, size, _stride(size))])
    place = torch.arange(len(logits), device=logits.device).view(answer.quality.shape)
    return Candidates(masks.unflatten(0, answer.quality.shape), answer.quality, logits, place)


def _match(instances: Instances, candidates: Candidates, guards: Guards) -> Match:
    stride = _stride(instances.image_size)
    teacher = instances.teacher_masks[:, ::stride, ::stride].to(candidates.masks.device)
    return match(teacher, candidates.masks, candidates.quality, guards)


def taken_logits(
    candidates: Candidates, result: Match, frame: Frame, view: ViewTransform | None, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the matching took.

    Returns:
        (N, H, W) logits of masks in the view, below zero where nothing was taken, and (N,) their predicted IoU, there
        that of the most trusted answer.
    """
    trust, place = candidates.quality.flatten(), candidates.place.flatten()
    first = torch.tensor([parts[0] if parts else -1 for parts in result.parts], device=place.device)
    matched = first >= 0
    chosen = torch.where(matched[:, None, None], candidates.logits[place[first]], -1.0)
    quality = torch.where(matched, trust[first], candidates.quality.amax(dim=1))
    for row, parts in enumerate(result.parts):
        if len(parts) > 1:
            chosen[row], quality[row] = candidates.logits[place[parts]].amax(dim=0), trust[parts].mean()
    return torch.cat(list(in_view(chosen, frame, view, size))), quality
