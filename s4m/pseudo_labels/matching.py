"""Instance-level matching: SAM's candidate masks to the teacher's instances, one to one (S4M).

SAM knows where things end, not what they are: it answers with a part, with more than was meant, or twice with the same
thing. Here a mask of SAM counts only where it is, by its overlap, the teacher's instance and nobody else's.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from s4m.pseudo_labels.masks import intersections, mask_iou

_LEAST_TRUST = 1e-3  # a predicted IoU may be negative, a profit not
_INSIDE = 0.75  # share of a part's own pixels that lie in the teacher's mask


class Outcome(IntEnum):
    """What became of an instance; every other than MATCHED keeps the teacher's mask.

    MATCHED: a candidate, or a union of parts, is its mask. PART: SAM's answer covers too little of the teacher's mask.
    LEAK: it reaches too far beyond. APART: it overlaps too little otherwise. DUPLICATE: another instance took the mask.
    """

    MATCHED = 0
    PART = 1
    LEAK = 2
    DUPLICATE = 3
    APART = 4


@dataclass(frozen=True)
class Guards:
    """What a candidate has to satisfy to stand for an instance of the teacher.

    Attributes:
        min_iou: least IoU with the teacher's mask, inclusive.
        part: least share of the teacher's mask that it covers, inclusive.
        leak: most pixels outside the teacher's mask, in units of that mask's area, inclusive.
        duplicate: IoU above which two candidates are one mask, which one instance alone can take.
        merge: where no candidate satisfies, the union of those inside the teacher's mask that nobody took may.
        box: SAM is asked by the teacher's box about what its answers to points leave without a mask.
    """

    min_iou: float = 0.5
    part: float = 0.6
    leak: float = 0.6
    duplicate: float = 0.8
    merge: bool = True
    box: bool = False


class Overlaps(NamedTuple):
    """How N masks of the teacher and C candidates lie to each other, each (N, C) float32.

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

    def permitted(self, guards: Guards) -> torch.Tensor:
        """Which pairs satisfy the guards: (N, C) bool."""
        return (self.iou >= guards.min_iou) & (self.covered >= guards.part) & (self.outside <= guards.leak)


class Match(NamedTuple):
    """The answer for N instances.

    Attributes:
        parts: for each the candidates whose union is its mask: one, several of a merge, or none where rejected. No
            candidate is a part of two instances.
        outcome: (N,) int64 of `Outcome`.
        agreement: (N,) float32 IoU of the teacher's mask with the mask that was taken, or, where none was, with the own
            candidate that SAM trusts most.
        over_segmented: (N,) bool, whether the own candidate that SAM trusts most is only a part of the instance: what
            refinement without matching would answer with.
    """

    parts: list[list[int]]
    outcome: torch.Tensor
    agreement: torch.Tensor
    over_segmented: torch.Tensor


def overlaps(teacher: torch.Tensor, candidates: torch.Tensor) -> Overlaps:
    """Compare masks of the teacher (N, H, W) bool and candidates (C, H, W) bool of one frame; all on the CPU."""
    shared = intersections(teacher, candidates).cpu()
    own, theirs = teacher.flatten(1).sum(1).cpu()[:, None], candidates.flatten(1).sum(1).cpu()[None]
    return Overlaps(
        iou=shared / (own + theirs - shared).clamp(min=1),
        covered=shared / own.clamp(min=1),
        outside=(theirs - shared) / own.clamp(min=1),
        inside=shared / theirs.clamp(min=1),
    )


def group_duplicates(iou: torch.Tensor, priority: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which masks are one: the mask of highest priority gathers those above the threshold, and so on with the rest.

    Args:
        iou: (C, C) of masks with each other.
        priority: (C,), the first of equals first.
        threshold: IoU above which two are one.

    Returns:
        (C,) int64 group of each, numbered from 0, on the CPU.
    """
    same = (iou > threshold).cpu().numpy()
    groups, number = np.full(len(same), -1), 0
    for index in priority.argsort(descending=True, stable=True).tolist():
        if groups[index] < 0:
            groups[same[index] & (groups < 0)] = number
            groups[index] = number
            number += 1
    return torch.from_numpy(groups)


def assign(profit: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """One candidate for each instance so that the sum of profits is greatest and no group is taken twice.

    Args:
        profit: (N, C), 0 for a pair that is not permitted; on the CPU.
        groups: (C,) as of `group_duplicates`.

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


def match(teacher: torch.Tensor, candidates: torch.Tensor, quality: torch.Tensor, guards: Guards) -> Match:
    """Match SAM's candidates of one image to the teacher's instances.

    Pairs are permitted by the guards; of all one-to-one assignments of different masks the one of the highest sum of
    IoU with the teacher times SAM's predicted IoU is taken (the Hungarian method): of masks that are equally near to
    the teacher's the one SAM trusts. A candidate may go to another instance than the one it was prompted by. Then, in
    the order of the instances, what is wanting may take the union of parts that nobody took.

    Args:
        teacher: (N, H, W) bool.
        candidates: (N, K, H, W) bool, K answers to the prompts of each instance, in the same frame.
        quality: (N, K) SAM's predicted IoU.
        guards: what is permitted.

    Returns:
        the `Match`, whose parts are indices into the N * K candidates; a union's quality is the mean of its parts'.
    """
    count, answers = quality.shape
    masks = candidates.flatten(0, 1)
    lie, every, trust = overlaps(teacher, masks), torch.arange(count), quality.flatten().cpu()
    own = every * answers + trust.view(count, answers).argmax(dim=1) if count else every
    of_own = Overlaps(*(values[every, own] for values in lie))
    permitted = lie.permitted(guards)
    columns = permitted.any(dim=0).nonzero()[:, 0]
    profit = (lie.iou * trust.clamp(min=_LEAST_TRUST) * permitted)[:, columns]
    chosen = assign(profit, _groups(masks, columns, lie.iou[:, columns], profit.sum(dim=0), guards))
    parts = [[int(columns[column])] if column >= 0 else [] for column in chosen.tolist()]
    agreement = of_own.iou.clone()
    agreement[chosen >= 0] = lie.iou[chosen >= 0, columns[chosen[chosen >= 0]]]
    if guards.merge:
        for row in (~permitted.any(dim=1)).nonzero()[:, 0].tolist():
            parts[row], agreement[row] = _merged(row, parts, teacher, masks, lie, guards, agreement[row])
    outcome = _reasons(of_own, permitted, guards)
    outcome[torch.tensor([len(own_parts) > 0 for own_parts in parts], dtype=torch.bool)] = Outcome.MATCHED
    over_segmented = (of_own.covered < guards.part) & (of_own.inside >= _INSIDE)
    return Match(parts, *(values.to(teacher.device) for values in (outcome, agreement, over_segmented)))


def _groups(
    masks: torch.Tensor, columns: torch.Tensor, iou: torch.Tensor, priority: torch.Tensor, guards: Guards
) -> torch.Tensor:
    """Groups of duplicates among the columns (C,) of the masks, whose IoU with the teacher's masks is (N, C).

    1 - IoU is a metric: a mask permitted for one instance and a duplicate of it permitted for another both overlap both
    instances by more than min_iou + duplicate - 1. Only such masks have to be compared.
    """
    groups = torch.arange(len(columns))
    contested = ((iou > guards.min_iou + guards.duplicate - 1).sum(dim=0) > 1).nonzero()[:, 0]
    rivals = masks[columns[contested].to(masks.device)]
    groups[contested] = len(groups) + group_duplicates(mask_iou(rivals, rivals), priority[contested], guards.duplicate)
    return groups.unique(return_inverse=True)[1]


def _merged(
    row: int,
    parts: list[list[int]],
    teacher: torch.Tensor,
    masks: torch.Tensor,
    lie: Overlaps,
    guards: Guards,
    agreement: torch.Tensor,
) -> tuple[list[int], torch.Tensor]:
    """The candidates inside an instance that are nobody's, if there are several and the guards permit their union.

    Nobody's is what does not lie in a mask that another instance took.

    Args:
        row: of the instance; parts: what the instances took so far; others as in `match`.
        agreement: () what is told where nothing is merged.

    Returns:
        the candidates and the IoU of their union with the teacher's mask.
    """
    inner = (lie.inside[row] >= _INSIDE).nonzero()[:, 0]
    # what holds most of such a part overlaps the instance, so that no other mask needs to be looked at
    taken = [index for each in parts for index in each if lie.iou[row, index] > 0]
    if taken and len(inner):
        there = overlaps(masks[taken], masks[inner.to(masks.device)]).inside
        inner = inner[(there < _INSIDE).all(dim=0)]
    if len(inner) < 2:
        return [], agreement
    union = overlaps(teacher[row : row + 1], masks[inner.to(masks.device)].any(dim=0)[None])
    if not union.permitted(guards).all():
        return [], agreement
    return inner.tolist(), union.iou[0, 0]


def _reasons(of_own: Overlaps, permitted: torch.Tensor, guards: Guards) -> torch.Tensor:
    """Why each of N instances would be rejected, by its own most trusted answer, whose overlaps are (N,)."""
    outcome = torch.full((len(of_own.iou),), int(Outcome.APART))
    outcome[of_own.outside > guards.leak] = Outcome.LEAK
    outcome[(of_own.covered < guards.part) & (of_own.inside >= _INSIDE)] = Outcome.PART
    outcome[permitted.any(dim=1)] = Outcome.DUPLICATE
    return outcome
