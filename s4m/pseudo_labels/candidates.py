"""SAM's candidates for the instances of an image: answers to points, then to boxes of instances without a mask."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from detectron2.structures import Instances

from s4m.pseudo_labels.matching import Match, MatchingThresholds, Outcome, match
from s4m.pseudo_labels.view_transform import ViewTransform
from s4m.sam import Answer, Embedding, PromptableSegmenter, Prompts
from s4m.sam.structures import Frame

# Candidates are compared on every k-th pixel of larger views, because SAM's own masks are not finer. Chance decides on
# objects of less than two such pixels (8 pixels of a 1024 pixel view).
_COMPARED_SIDE = 256
_CHUNK = 1 << 24  # This many pixels of enlarged candidates are in memory at once.


class Candidates(NamedTuple):
    """K candidates for each of N instances, C of them real; those of an instance without a prompt are empty.

    Attributes:
        masks: (N, K, h, w) bool, every k-th pixel of the view.
        quality: (N, K) SAM's predicted IoU; -inf for an empty candidate.
        logits: (C, s, s) logits on the segmenter's whole input.
        place: (N, K) int64 index into `logits`, 0 for an empty candidate.
    """

    masks: torch.Tensor
    quality: torch.Tensor
    logits: torch.Tensor
    place: torch.Tensor

    def append(self, rows: torch.Tensor, extra: "Candidates") -> "Candidates":
        """Return these candidates followed by `extra` ones, which exist for the instances `rows` (n,) alone."""
        shape = (len(self.quality), extra.quality.shape[1])
        masks = self.masks.new_zeros(*shape, *self.masks.shape[2:])
        quality = self.quality.new_full(shape, -torch.inf)
        place = self.place.new_zeros(shape)
        masks[rows] = extra.masks
        quality[rows] = extra.quality
        place[rows] = extra.place + len(self.logits)
        return Candidates(
            torch.cat([self.masks, masks], dim=1),
            torch.cat([self.quality, quality], dim=1),
            torch.cat([self.logits, extra.logits]),
            torch.cat([self.place, place], dim=1),
        )


def _in_view(
    logits: torch.Tensor, frame: Frame, view: ViewTransform | None, size: tuple[int, int], stride: int = 1
) -> Iterator[torch.Tensor]:
    """Move logits (M, s, s) of the segmenter's input to every `stride`-th pixel of the view, in chunks (m, h, w)."""
    for part in logits.split(max(1, _CHUNK // (size[0] * size[1]))):
        enlarged = frame.masks_to_image(part[None])[0]
        yield (enlarged if view is None else view.masks_to_view(enlarged))[:, ::stride, ::stride]


def point_prompts(points: Sequence[torch.Tensor], views: Sequence[ViewTransform] | None) -> list[Prompts]:
    """Make prompts of positive points (N, P, 2), x, y pixel indices in the views, one tensor for each image."""
    if views is not None:
        points = [view.points_to_source(own) for view, own in zip(views, points, strict=True)]
    return [Prompts(own, torch.ones(own.shape[:2], device=own.device)) for own in points]


def _box_prompts(boxes: torch.Tensor, view: ViewTransform | None) -> Prompts:
    """Make prompts of boxes (N, 4) xyxy in pixels of the view, which may mirror its source."""
    if view is not None:
        corners = view.points_to_source(boxes.reshape(-1, 2, 2))
        boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    no_points = boxes.new_zeros(len(boxes), 0, 2)
    return Prompts(no_points, no_points[..., 0], boxes)


def match_candidates(
    segmenter: PromptableSegmenter,
    embedding: Embedding,
    points: Sequence[torch.Tensor],
    instances: Sequence[Instances],
    views: Sequence[ViewTransform] | None,
    thresholds: MatchingThresholds,
) -> list[tuple[Candidates, Match]]:
    """Prompt SAM with points and match its answers; then prompt it with the boxes of instances without a mask.

    The second prompt costs nothing where the first one gives all instances a mask. Parts are merged last, when all
    answers are there.

    Args:
        segmenter: the frozen SAM.
        embedding: the embedding of the images.
        points: (N, P, 2) x, y pixel indices in the view, for each image.
        instances: N >= 1 instances of each image with `teacher_masks` (N, H, W) bool and `pred_boxes` in the view.
        views: the `ViewTransform` of each image, where the embedding is of the un-augmented image.
        thresholds: the thresholds of the matching.

    Returns:
        the candidates and the match of each image.
    """
    images = list(zip(instances, embedding.frames, views or [None] * len(instances), strict=True))
    answers = segmenter.decode(embedding, point_prompts(points, views), enlarge=False)
    candidates = [_candidates(answer, *image) for answer, image in zip(answers, images, strict=True)]
    first = replace(thresholds, merge=thresholds.merge and not thresholds.box)
    matches = [(own, _match(image[0], own, first)) for own, image in zip(candidates, images, strict=True)]
    if not thresholds.box:
        return matches
    unmatched = {i: (result.outcome != Outcome.MATCHED).nonzero()[:, 0] for i, (_, result) in enumerate(matches)}
    unmatched = {i: rows for i, rows in unmatched.items() if len(rows)}
    if not unmatched:
        return matches
    prompts = [_box_prompts(instances[i].pred_boxes.tensor[rows], images[i][2]) for i, rows in unmatched.items()]
    answers = segmenter.decode(embedding[list(unmatched)], prompts, enlarge=False)
    for (i, rows), answer in zip(unmatched.items(), answers, strict=True):
        extended = candidates[i].append(rows.to(candidates[i].masks.device), _candidates(answer, *images[i]))
        matches[i] = extended, _match(instances[i], extended, thresholds)
    return matches


def _stride(size: tuple[int, int]) -> int:
    return -(-max(size) // _COMPARED_SIDE)


def _candidates(answer: Answer, instances: Instances, frame: Frame, view: ViewTransform | None) -> Candidates:
    """Convert an answer (n, K, s, s) about an image."""
    size = instances.image_size
    logits = answer.masks.flatten(0, 1)
    masks = torch.cat([part > 0 for part in _in_view(logits, frame, view, size, _stride(size))])
    place = torch.arange(len(logits), device=logits.device).view(answer.quality.shape)
    return Candidates(masks.unflatten(0, answer.quality.shape), answer.quality, logits, place)


def _match(instances: Instances, candidates: Candidates, thresholds: MatchingThresholds) -> Match:
    stride = _stride(instances.image_size)
    teacher = instances.teacher_masks[:, ::stride, ::stride].to(candidates.masks.device)
    return match(teacher, candidates.masks, candidates.quality, thresholds)


def taken_logits(
    candidates: Candidates, result: Match, frame: Frame, view: ViewTransform | None, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (N, H, W) in the view and the predicted IoU (N,) of the masks that the matching took.

    Where it took none, the logits are below zero, and the predicted IoU is that of the most trusted answer.
    """
    trust = candidates.quality.flatten()
    place = candidates.place.flatten()
    first = torch.tensor([parts[0] if parts else -1 for parts in result.parts], device=place.device)
    matched = first >= 0
    chosen = torch.where(matched[:, None, None], candidates.logits[place[first]], -1.0)
    quality = torch.where(matched, trust[first], candidates.quality.amax(dim=1))
    for row, parts in enumerate(result.parts):
        if len(parts) > 1:
            chosen[row] = candidates.logits[place[parts]].amax(dim=0)
            quality[row] = trust[parts].mean()
    return torch.cat(list(_in_view(chosen, frame, view, size))), quality
