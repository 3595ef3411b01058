"""Instance-level matching of SAM's candidate masks to the teacher's instances, one to one (S4M).

SAM knows where things end, not what they are: it may answer with a part, with too much, or twice with the same thing.
A mask of SAM counts only where its overlap shows that it is the teacher's instance and nobody else's.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from s4m.pseudo_labels.masks import intersections, mask_iou

_LEAST_TRUST = 1e-3  # SAM's predicted IoU may be negative, but a profit may not.
_INSIDE = 0.75  # At least this share of a part's own pixels lies in the teacher's mask.


class Outcome(IntEnum):
    """The result of the matching for an instance; all instances but MATCHED ones keep the teacher's mask.

    MATCHED: a candidate, or a union of parts, is its mask. PART: SAM's answer covers too little of the teacher's mask.
    LEAK: it reaches too far beyond. APART: it overlaps too little otherwise. DUPLICATE: another instance took the mask.
    """

    MATCHED = 0
    PART = 1
    LEAK = 2
    DUPLICATE = 3
    APART = 4


@dataclass(frozen=True)
class MatchingThresholds:
    """Conditions under which a candidate may stand for an instance; `s4m.config` explains these keys of S4M.MATCHING.

    `min_iou`, `part` and `leak` are inclusive, `duplicate` is exclusive.
    """

    min_iou: float = 0.5
    part: float = 0.6
    leak: float = 0.6
    duplicate: float = 0.8
    merge: bool = True
    box: bool = False


class Overlaps(NamedTuple):
    """Overlaps of N masks of the teacher with C candidates, each (N, C) float32.

    Attributes:
        iou: intersection over union.
        covered: share of the teacher's mask that the candidate covers.
        outside: the candidate's pixels outside the teacher's mask, in units of that mask's area.
        inside: share of the candidate's pixels that lie in the teacher's mask; 0 for an empty candidate.
    """

    iou: torch.Tensor
    covered: torch.Tensor
    outside: torch.Tensor
    inside: torch.Tensor

    def permitted(self, limits: MatchingThresholds) -> torch.Tensor:
        """Return (N, C) bool: which pairs satisfy the thresholds."""
        return (self.iou >= limits.min_iou) & (self.covered >= limits.part) & (self.outside <= limits.leak)


class Match(NamedTuple):
    """The result of the matching for N instances.

    Attributes:
        parts: indices of the candidates whose union is the instance's mask: one, several of a merge, or none where all
            were rejected. No candidate is a part of two instances.
        outcome: (N,) int64 values of `Outcome`.
        agreement: (N,) float32 IoU of the teacher's mask with the mask that was taken, or, where none was, with the own
            candidate that SAM trusts most.
        over_segmented: (N,) bool, whether the own candidate that SAM trusts most, the answer of refinement without
            matching, is only a part of the instance.
    """

    parts: list[list[int]]
    outcome: torch.Tensor
    agreement: torch.Tensor
    over_segmented: torch.Tensor


def overlaps(teacher: torch.Tensor, candidates: torch.Tensor) -> Overlaps:
    """Compare masks of the teacher (N, H, W) bool with candidates (C, H, W) bool; the result is on the CPU."""
    shared = intersections(teacher, candidates).cpu()
    area = teacher.flatten(1).sum(1).cpu()[:, None]
    candidate_area = candidates.flatten(1).sum(1).cpu()[None]
    return Overlaps(
        iou=shared / (area + candidate_area - shared).clamp(min=1),
        covered=shared / area.clamp(min=1),
        outside=(candidate_area - shared) / area.clamp(min=1),
        inside=shared / candidate_area.clamp(min=1),
    )


def group_duplicates(iou: torch.Tensor, priority: torch.Tensor, threshold: float) -> torch.Tensor:
    """Group masks that are one: the first by priority gathers those above the threshold, then the next free one does.

    Args:
        iou: (C, C) IoU of the masks with each other.
        priority: (C,); the first of equals comes first.
        threshold: IoU above which two masks are one.

    Returns:
        (C,) int64 group of each mask, numbered from 0, on the CPU.
    """
    same = (iou > threshold).cpu().numpy()
    groups = np.full(len(same), -1)
    number = 0
    for index in priority.argsort(descending=True, stable=True).tolist():
        if groups[index] < 0:
            groups[same[index] & (groups < 0)] = number
            groups[index] = number
            number += 1
    return torch.from_numpy(groups)


def assign(profit: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Choose a candidate for each instance so that the sum of profits is greatest and no group is taken twice.

    Args:
        profit: (N, C) on the CPU, 0 for a pair that is not permitted.
        groups: (C,) result of `group_duplicates`.

    Returns:
        (N,) int64 index of the candidate, -1 for none.
    """
    chosen = torch.full((len(profit),), -1)
    if not profit.numel():
        return chosen
    index = groups.expand_as(profit)
    best = profit.new_zeros(len(profit), int(groups.max()) + 1).scatter_reduce(1, index, profit, "amax")
    rows, taken = (torch.from_numpy(index) for index in linear_sum_assignment(best.numpy(), maximize=True))
    column = torch.where(groups == taken[:, None], profit[rows], -1.0).argmax(dim=1)
    chosen[rows] = torch.where(best[rows, taken] > 0, column, -1)
    return chosen


def match(
    teacher: torch.Tensor, candidates: torch.Tensor, quality: torch.Tensor, limits: MatchingThresholds
) -> Match:
    """Match SAM's candidates of one image to the teacher's instances.

    The thresholds permit pairs. Among all one-to-one assignments of different masks the Hungarian method takes the one
    with the highest sum of profits, where a profit is the IoU with the teacher times SAM's predicted IoU. A candidate
    may go to another instance than the one it was prompted by. Example of profits for two instances with two candidates
    each, of which the second and third are one mask (a group):

        instance 0    0.30  0.60  0.60  0          The best single pair, 0.60 + 0, wins less than 0.30 + 0.50:
        instance 1    0     0.50  0.50  0          instance 0 takes its first candidate, instance 1 the shared mask.

    Then, in their order, instances without a mask may take the union of parts that nobody took.

    Args:
        teacher: (N, H, W) bool.
        candidates: (N, K, H, W) bool, K answers to the prompts of each instance, in the same frame.
        quality: (N, K) SAM's predicted IoU.
        limits: the thresholds.

    Returns:
        the `Match`, whose parts are indices into the N * K candidates.
    """
    count, answers = quality.shape
    masks = candidates.flatten(0, 1)
    overlap = overlaps(teacher, masks)
    rows = torch.arange(count)
    trust = quality.flatten().cpu()
    own = rows * answers + trust.view(count, answers).argmax(dim=1) if count else rows
    own_overlap = Overlaps(*(values[rows, own] for values in overlap))
    permitted = overlap.permitted(limits)
    columns = permitted.any(dim=0).nonzero()[:, 0]
    profit = (overlap.iou * trust.clamp(min=_LEAST_TRUST) * permitted)[:, columns]
    chosen = assign(profit, _groups(masks, columns, overlap.iou[:, columns], profit.sum(dim=0), limits))
    parts = [[int(columns[column])] if column >= 0 else [] for column in chosen.tolist()]
    agreement = own_overlap.iou.clone()
    agreement[chosen >= 0] = overlap.iou[chosen >= 0, columns[chosen[chosen >= 0]]]
    if limits.merge:
        for row in (~permitted.any(dim=1)).nonzero()[:, 0].tolist():
            parts[row], iou = _merge_parts(row, parts, teacher, masks, overlap, limits)
            agreement[row] = agreement[row] if iou is None else iou
    over_segmented = (own_overlap.covered < limits.part) & (own_overlap.inside >= _INSIDE)
    outcome = torch.full((count,), int(Outcome.APART))
    outcome[own_overlap.outside > limits.leak] = Outcome.LEAK
    outcome[over_segmented] = Outcome.PART
    outcome[permitted.any(dim=1)] = Outcome.DUPLICATE
    outcome[torch.tensor([len(own_parts) > 0 for own_parts in parts], dtype=torch.bool)] = Outcome.MATCHED
    return Match(parts, *(values.to(teacher.device) for values in (outcome, agreement, over_segmented)))


def _groups(
    masks: torch.Tensor, columns: torch.Tensor, iou: torch.Tensor, priority: torch.Tensor, limits: MatchingThresholds
) -> torch.Tensor:
    """Group duplicates among the columns (C,) of the masks, whose IoU with the teacher's masks is (N, C).

    1 - IoU is a metric: a mask permitted for one instance and a duplicate of it permitted for another both overlap both
    instances by more than min_iou + duplicate - 1. Only such masks are compared.
    """
    groups = torch.arange(len(columns))
    contested = ((iou > limits.min_iou + limits.duplicate - 1).sum(dim=0) > 1).nonzero()[:, 0]
    rivals = masks[columns[contested].to(masks.device)]
    groups[contested] = len(groups) + group_duplicates(mask_iou(rivals, rivals), priority[contested], limits.duplicate)
    return groups.unique(return_inverse=True)[1]


def _merge_parts(
    row: int,
    parts: list[list[int]],
    teacher: torch.Tensor,
    masks: torch.Tensor,
    overlap: Overlaps,
    limits: MatchingThresholds,
) -> tuple[list[int], torch.Tensor | None]:
    """Return the free candidates inside instance `row` and the IoU of their union with the teacher's mask.

    A candidate is free if it does not lie in a mask that another instance took (`parts`). The result is empty, with
    None, unless there are several free candidates and the thresholds permit their union.
    """
    inner = (overlap.inside[row] >= _INSIDE).nonzero()[:, 0]
    # A mask that holds most of such a part overlaps the instance, so no other mask needs a comparison.
    taken = [index for own_parts in parts for index in own_parts if overlap.iou[row, index] > 0]
    if taken and len(inner):
        inside_taken = overlaps(masks[taken], masks[inner.to(masks.device)]).inside
        inner = inner[(inside_taken < _INSIDE).all(dim=0)]
    if len(inner) < 2:
        return [], None
    union = overlaps(teacher[row : row + 1], masks[inner.to(masks.device)].any(dim=0)[None])
    return (inner.tolist(), union.iou[0, 0]) if union.permitted(limits).all() else ([], None)
