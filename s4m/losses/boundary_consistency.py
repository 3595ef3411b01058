"""Boundary-aware consistency distillation (S4M): the student's masks follow SAM most where SAM knows the edge.

All maps are stacks (N, H, W) with one object in each map. They may lie in any frame that they share: the mask head's
RoI, a crop around the object or the whole image. Distances are fractions of each object's own size in that frame, so
its resolution does not matter. The cost grows with the object's size in cells. All numbers are float32, under autocast
as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch.nn import functional as F

_DICE_FLOOR = 1.0  # Cells added to both sides of the dice: two empty boundaries are equal, and gradients stay small.


class BoundaryTerms(NamedTuple):
    """The weighted divergence (N,) of the masks, at least 0, and one minus the dice (N,) of the soft boundaries."""

    consistency: torch.Tensor
    edge: torch.Tensor


def band_radius(targets: torch.Tensor, width: float) -> torch.Tensor:
    """Return half the width of each object's boundary band, (N,) int64 cells, at least 1.

    Args:
        targets: (N, H, W) in [0, 1].
        width: a fraction of the object's size, which is the geometric mean of its height and width in cells.
    """
    inside = targets >= 0.5
    rows = inside.any(dim=2).sum(dim=1)
    columns = inside.any(dim=1).sum(dim=1)
    return (width * (rows * columns).float().sqrt()).round().long().clamp(min=1)


def _repeat(step: Callable[[torch.Tensor], torch.Tensor], maps: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Apply a step to each map (N, H, W) as often as its radius (N,) says."""
    for turn in range(1, int(radius.max()) + 1 if len(radius) else 1):
        maps = torch.where((radius >= turn)[:, None, None], step(maps[:, None])[:, 0], maps)
    return maps


def _dilate(maps: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return _repeat(lambda stack: F.max_pool2d(stack, 3, stride=1, padding=1), maps, radius)


def soft_boundary(maps: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Return the soft morphological gradient, dilation minus erosion: (N, H, W) in [0, 1] for maps in [0, 1].

    The boundary of a binary mask is 1 within `radius` (N,) cells of its outline; the frame's border is no outline.
    Example for one row and radius 1:

        maps              0  0  0  1  1  1
        dilated           0  0  1  1  1  1
        eroded            0  0  0  0  1  1   (the negative of the dilated negative)
        soft boundary     0  0  1  1  0  0
    """
    return _dilate(maps, radius) + _dilate(-maps, radius)


def sam_certainty(sam: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Return how sure SAM is around each cell: |2p - 1|, averaged over about `radius` (N,) cells; (N, H, W) in [0, 1].

    The average is needed because p is 1/2 at the outline itself, even where SAM is sure of the outline.
    """
    return _repeat(
        lambda stack: F.avg_pool2d(stack, 3, stride=1, padding=1, count_include_pad=False), (2 * sam - 1).abs(), radius
    )


def binary_divergence(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence of Bernoulli(sigmoid(logits)) from Bernoulli(targets), cell by cell."""
    entropy = -torch.xlogy(targets, targets) - torch.xlogy(1 - targets, 1 - targets)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none") - entropy


def _edge_loss(
    probability: torch.Tensor, band: torch.Tensor, certainty: torch.Tensor, radius: torch.Tensor
) -> torch.Tensor:
    """Return one minus the dice of the student's soft boundary and the target's, weighted by certainty: (N,)."""
    own = soft_boundary(probability, radius)
    overlap = (certainty * own * band).flatten(1).sum(dim=1)
    total = (certainty * (own.square() + band.square())).flatten(1).sum(dim=1)
    return 1 - (2 * overlap + _DICE_FLOOR) / (total + _DICE_FLOOR)


@dataclass(frozen=True)
class BoundaryConsistency:
    """The boundary-aware consistency as a loss of each object.

    The student's mask p follows q = (1 - teacher_share) * target + teacher_share * teacher by the divergence KL(q, p).
    A cell weighs (1 + gain * band * certainty) * agreement, where `band` is the soft boundary of the target,
    `certainty` is `sam_certainty` and `agreement` is 1 - |teacher - sam|. The sum is divided by the sum of the weights
    at full agreement, so an object over which teacher and SAM disagree counts for less. The student's soft boundary
    follows the target's by a dice loss whose cells weigh `certainty`. Without an answer of SAM (`refined` is False)
    certainty is 0 and agreement 1: the first term is the plain mean divergence, and the second term is 0. The
    attributes are keys of S4M.BOUNDARY, which `s4m.config` explains; `teacher_share` is S4M.BOUNDARY.TEACHER.
    """

    weight: float = 1.0
    edge_weight: float = 1.0
    width: float = 0.08
    gain: float = 4.0
    teacher_share: float = 0.25

    @classmethod
    def read(cls, cfg: CfgNode) -> "BoundaryConsistency | None":
        """Build the loss from cfg.S4M.BOUNDARY; return None where it is off or the configuration has no S4M."""
        if "S4M" not in cfg or not cfg.S4M.BOUNDARY.ENABLED:
            return None
        node = cfg.S4M.BOUNDARY
        return cls(node.WEIGHT, node.EDGE_WEIGHT, node.WIDTH, node.GAIN, node.TEACHER)

    def __call__(self, *maps: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Return the (N,) weighted sum of both terms; the arguments are those of `terms`."""
        terms = self.terms(*maps, valid=valid)
        return self.weight * terms.consistency + self.edge_weight * terms.edge

    def terms(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        teacher: torch.Tensor,
        sam: torch.Tensor,
        refined: torch.Tensor,
        valid: torch.Tensor | None = None,
    ) -> BoundaryTerms:
        """Compute both terms of N objects, float32.

        Args:
            logits: (N, H, W) mask logits of the student, the only argument with a gradient.
            targets: (N, H, W) pseudo-mask in [0, 1].
            teacher: (N, H, W) the teacher's soft mask in [0, 1].
            sam: (N, H, W) SAM's mask probability in [0, 1].
            refined: (N,) bool, whether the pseudo-mask is SAM's.
            valid: (N, H, W) bool, the cells that count; None counts all. The others weigh nothing, and there the
                student is taken to equal the target, so that an outline along their edge belongs to both.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            targets, teacher, sam = (maps.detach().float() for maps in (targets, teacher, sam))
            known = refined[:, None, None].float()
            radius = band_radius(targets, self.width)
            band = soft_boundary(targets, radius)
            certainty = known * sam_certainty(sam, radius)
            agreement = 1 - known * (teacher - sam).abs()
            emphasis = 1 + self.gain * band * certainty
            probability = logits.sigmoid()
            if valid is not None:
                emphasis = emphasis * valid
                certainty = certainty * valid
                probability = torch.where(valid, probability, targets)
            blend = torch.lerp(targets, teacher, self.teacher_share)
            divergence = emphasis * agreement * binary_divergence(logits, blend)
            total = emphasis.flatten(1).sum(dim=1)
            consistency = divergence.flatten(1).sum(dim=1) / torch.where(total > 0, total, 1.0)
            return BoundaryTerms(consistency, _edge_loss(probability, band, certainty, radius))
