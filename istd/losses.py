"""Losses of point-supervised ISTD: pure functions on logits.

Per-sample losses return (B,), so that sample weights apply before the mean. Logits and targets are (B, 1, H, W);
targets are soft, in [0, 1]. All is computed in float32.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SampleLoss = Callable[[Tensor, Tensor], Tensor]


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with soft targets, mean over pixels: (B, 1, H, W) twice -> (B,)."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return loss.flatten(1).mean(1)


def soft_iou(logits: Tensor, targets: Tensor, smooth: float | Tensor = 1.0) -> Tensor:
    """1 - (sum p t + smooth) / (sum (p + t - p t) + smooth), p = sigmoid(logits): (B, 1, H, W) twice -> (B,).

    `smooth`: a number, or one a sample, (B,).
    """
    probability, targets = logits.float().sigmoid().flatten(1), targets.float().flatten(1)
    both = (probability * targets).sum(1)
    either = probability.sum(1) + targets.sum(1) - both
    return 1 - (both + smooth) / (either + smooth)


def bce_soft_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """BCE + soft-IoU, which training from scratch on targets of a few pixels needs: (B, 1, H, W) twice -> (B,)."""
    return bce(logits, targets) + soft_iou(logits, targets)


def bce_hard_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """BCE with the soft targets + soft-IoU with the targets above 0.5: (B, 1, H, W) twice -> (B,).

    Soft-IoU against soft targets rewards a pixel with target t as soon as t > IoU / (1 + IoU): a network whose IoU is
    0.3 is drawn to 1 wherever t > 0.23. Label evolution averages that into the mask, and masks swell from update to
    update. Against the binary region they do not. Only samples without a region are smoothed: with smooth = 1 silence
    is a better answer to a label of one pixel than any blob of three or more.
    """
    region = (targets > 0.5).float()
    return bce(logits, targets) + soft_iou(logits, region, (region.flatten(1).sum(1) == 0).float())


def balanced_bce(logits: Tensor, targets: Tensor, area: float = 32.0) -> Tensor:
    """BCE whose target pixels weigh max(1, area / sum t): (B, 1, H, W) twice -> (B,).

    For labels that begin as points. A pixel is predicted where the chance that it is the labelled one exceeds
    1 / (1 + weight): with `area` about that of a target, the network draws the target and not its one labelled pixel,
    and label evolution has something to follow. As labels grow to that area this becomes BCE.
    """
    weight = (area / targets.float().flatten(1).sum(1).clamp(min=1e-6)).clamp(min=1, max=area).view(-1, 1, 1, 1)
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), pos_weight=weight, reduction="none")
    return loss.flatten(1).mean(1)


SUPERVISION: dict[str, SampleLoss] = {
    "bce": bce,
    "soft_iou": soft_iou,
    "bce_soft_iou": bce_soft_iou,
    "bce_hard_iou": bce_hard_iou,
    "balanced_bce": balanced_bce,
}


def distillation(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Mean over pixels of (sigmoid(student / T) - sigmoid(teacher / T))**2: (B, 1, H, W) logits twice -> (B,).

    A teacher map of another size is brought to the student map's by bilinear interpolation. The caller detaches the
    side that gets no gradient.
    """
    if teacher.shape[-2:] != student.shape[-2:]:
        teacher = F.interpolate(teacher, size=student.shape[-2:], mode="bilinear", align_corners=False)
    difference = (student.float() / temperature).sigmoid() - (teacher.float() / temperature).sigmoid()
    return difference.square().flatten(1).mean(1)


def supervise(maps: Sequence[Tensor], targets: Tensor, loss: SampleLoss = bce) -> Tensor:
    """Deep supervision: the mean over maps of `loss` against the targets.

    Args:
        maps: logits, finest first; a smaller map meets the targets max-pooled to its size, so that a target of one
            pixel stays.
        targets: (B, 1, H, W).
        loss: per-sample loss.

    Returns:
        (B,).
    """
    losses = []
    for logits in maps:
        same = logits.shape[-2:] == targets.shape[-2:]
        losses.append(loss(logits, targets if same else F.adaptive_max_pool2d(targets.float(), logits.shape[-2:])))
    return torch.stack(losses).mean(0)


def sample_weights(alpha: Tensor, clusters: Tensor, everyone: Tensor | None = None) -> Tensor:
    """Weights of a batch's samples from the learnable scalars of their clusters.

    r = alpha_c - mean of alpha_c over the batch; w = exp(log 2 * tanh(r / log 2)), in [0.5, 2]; divided by the batch
    mean of w, which is detached.

    Args:
        alpha: (clusters,) learnable scalars.
        clusters: (B,) int64 cluster of each sample.
        everyone: (B',) the clusters of the whole batch, where `clusters` are one process's share of it: both means are
            over the whole batch.

    Returns:
        (B,) with mean 1 over the whole batch; differentiable in alpha.
    """
    log2 = torch.log(alpha.new_tensor(2.0))
    batch = alpha[clusters if everyone is None else everyone]

    def raw(chosen: Tensor) -> Tensor:
        return torch.exp(log2 * torch.tanh((chosen - batch.mean()) / log2))

    return raw(alpha[clusters]) / raw(batch).mean().detach()


def inner_losses(
    teacher_maps: Sequence[Tensor],
    student_logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    gate_penalty: Tensor,
    *,
    loss: SampleLoss = bce,
    distill_weight: float = 0.1,
    gate_weight: float = 0.005,
    temperature: float = 4.0,
) -> dict[str, Tensor]:
    """Inner loop: the teacher learns.

    mean of w * [BCE(teacher, pseudo-mask) + 0.1 * MSE(sigmoid(student / 4), sigmoid(teacher / 4))]
    + 0.005 * mean|gate|. Student logits and weights are detached here. Distillation compares the finest maps.

    Args:
        teacher_maps: the teacher's logit maps, finest first.
        student_logits: the student's finest map, (B, 1, H, W).
        targets: (B, 1, H, W) pseudo-masks.
        weights: (B,) sample weights.
        gate_penalty: SCAM's.
        loss: supervision per sample; published: BCE.

    Returns:
        scalars "loss_mask", "loss_distill" and "loss_gate", whose sum is the loss.
    """
    weights = weights.detach()
    distilled = distillation(teacher_maps[0], student_logits.detach(), temperature)
    return {
        "loss_mask": (weights * supervise(teacher_maps, targets, loss)).mean(),
        "loss_distill": distill_weight * (weights * distilled).mean(),
        "loss_gate": gate_weight * gate_penalty,
    }


def outer_loss(
    student_maps: Sequence[Tensor],
    teacher_logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    loss: SampleLoss = bce,
    temperature: float = 4.0,
) -> Tensor:
    """Outer loop: the student and alpha learn; F on a validation batch, f on a training batch.

    mean of w * [MSE(sigmoid(student / 4), sigmoid(teacher / 4)) + BCE(student, pseudo-mask)], averaged over the
    student's maps, each distilled from the teacher's finest. Teacher logits are detached here; weights are not.

    Args:
        student_maps: the student's logit maps, finest first.
        teacher_logits: the teacher's finest map, (B, 1, H, W).
        targets: (B, 1, H, W) pseudo-masks.
        weights: (B,) sample weights, differentiable in alpha.

    Returns:
        a scalar.
    """
    teacher = teacher_logits.detach()
    distilled = torch.stack([distillation(logits, teacher, temperature) for logits in student_maps]).mean(0)
    return (weights * (distilled + supervise(student_maps, targets, loss))).mean()
