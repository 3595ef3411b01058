"""Losses of point-supervised ISTD: pure functions on logits.

Per-sample losses return (B,), so that sample weights apply before the mean. Logits and targets are (B, 1, H, W);
targets are soft, in [0, 1]. All losses are computed in float32.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SampleLoss = Callable[[Tensor, Tensor], Tensor]
TEMPERATURE = 4.0  # published temperature of the distillation


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute binary cross-entropy with soft targets, averaged over pixels: (B, 1, H, W) twice -> (B,)."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return loss.flatten(1).mean(1)


def soft_iou(logits: Tensor, targets: Tensor, smooth: float | Tensor = 1.0) -> Tensor:
    """Compute 1 - (sum p t + smooth) / (sum (p + t - p t) + smooth), p = sigmoid(logits): (B, 1, H, W) twice -> (B,).

    `smooth` is one number for all samples, or (B,) numbers.
    """
    probability = logits.float().sigmoid().flatten(1)
    targets = targets.float().flatten(1)
    intersection = (probability * targets).sum(1)
    union = probability.sum(1) + targets.sum(1) - intersection
    return 1 - (intersection + smooth) / (union + smooth)


def bce_soft_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Add BCE and soft-IoU, as training from scratch on targets of a few pixels needs: (B, 1, H, W) twice -> (B,)."""
    return bce(logits, targets) + soft_iou(logits, targets)


def bce_hard_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Add BCE with the soft targets and soft-IoU with the targets above 0.5: (B, 1, H, W) twice -> (B,).

    Soft-IoU with soft targets rewards a pixel of target t if t > IoU / (1 + IoU): a network whose IoU is 0.3 tends to
    1 wherever t > 0.23. Label evolution averages such probabilities into the mask, and masks would swell from update to
    update; the binary region prevents this. Only samples without a region are smoothed, because with smooth = 1 an
    empty prediction would be a better answer to a label of one pixel than any blob of three or more pixels.
    """
    region = (targets > 0.5).float()
    return bce(logits, targets) + soft_iou(logits, region, (region.flatten(1).sum(1) == 0).float())


def balanced_bce(logits: Tensor, targets: Tensor, area: float = 32.0) -> Tensor:
    """Compute BCE whose target pixels have the weight max(1, area / sum t): (B, 1, H, W) twice -> (B,).

    The loss suits labels that begin as points. A pixel is predicted if the probability that it is the labeled one
    exceeds 1 / (1 + weight). If `area` is about that of a target, the network therefore predicts the whole target
    rather than one pixel, and label evolution can follow it. The loss becomes BCE as labels grow to that area.
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


def distillation(student: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Average (sigmoid(student / T) - sigmoid(teacher / T))**2 over pixels: (B, 1, H, W) logits twice -> (B,).

    A teacher map of another size is interpolated bilinearly to the student map's size. The caller detaches the map that
    gets no gradient.
    """
    if teacher.shape[-2:] != student.shape[-2:]:
        teacher = F.interpolate(teacher, size=student.shape[-2:], mode="bilinear", align_corners=False)
    difference = (student.float() / temperature).sigmoid() - (teacher.float() / temperature).sigmoid()
    return difference.square().flatten(1).mean(1)


def supervise(maps: Sequence[Tensor], targets: Tensor, loss: SampleLoss = bce) -> Tensor:
    """Average `loss` over the maps of deep supervision.

    Args:
        maps: logits, finest first; targets are max-pooled to the size of a smaller map, so that a target of one pixel
            remains.
        targets: (B, 1, H, W) soft targets.
        loss: per-sample loss.

    Returns:
        (B,) losses.
    """
    losses = []
    for logits in maps:
        same_size = logits.shape[-2:] == targets.shape[-2:]
        pooled = targets if same_size else F.adaptive_max_pool2d(targets.float(), logits.shape[-2:])
        losses.append(loss(logits, pooled))
    return torch.stack(losses).mean(0)


def sample_weights(alpha: Tensor, clusters: Tensor, all_clusters: Tensor | None = None) -> Tensor:
    """Compute the weights of a batch's samples from the learnable scalars of their clusters.

    r = alpha_c - mean of alpha_c over the batch; w = exp(log 2 * tanh(r / log 2)) lies in [0.5, 2]; the weights are
    w / mean of w over the batch, where the mean is detached.

    Example: alpha = (0.3, -0.3) and one sample of each cluster give r = (0.3, -0.3), w = (1.33, 0.75) with mean 1.04,
    and the weights (1.28, 0.72).

    Args:
        alpha: (clusters,) learnable scalars.
        clusters: (B,) int64 cluster of each sample.
        all_clusters: (B',) clusters of the whole batch if `clusters` is one process's share; both means are over it.

    Returns:
        (B,) weights with mean 1 over the whole batch, differentiable in alpha.
    """
    log2 = torch.log(alpha.new_tensor(2.0))
    batch = alpha[clusters if all_clusters is None else all_clusters]

    def unnormalized(values: Tensor) -> Tensor:
        return torch.exp(log2 * torch.tanh((values - batch.mean()) / log2))

    return unnormalized(alpha[clusters]) / unnormalized(batch).mean().detach()


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
) -> dict[str, Tensor]:
    """Compute the losses of the inner loop, in which the teacher learns.

    Their sum is the mean of w * [BCE(teacher, pseudo-mask) + 0.1 * MSE(sigmoid(student / 4), sigmoid(teacher / 4))]
    + 0.005 * mean|gate|. Student logits and weights are detached here. Distillation compares the finest maps.

    Args:
        teacher_maps: the teacher's logit maps, finest first.
        student_logits: the student's finest map, (B, 1, H, W).
        targets: (B, 1, H, W) pseudo-masks.
        weights: (B,) sample weights.
        gate_penalty: mean absolute gate of SCAM.
        loss: per-sample loss on the pseudo-masks; published: BCE.
        distill_weight, gate_weight: weights of the second and the third term.

    Returns:
        scalars "loss_mask", "loss_distill" and "loss_gate", whose sum is the loss.
    """
    weights = weights.detach()
    distilled = distillation(teacher_maps[0], student_logits.detach())
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
) -> Tensor:
    """Compute the loss of the outer loop, in which the student and alpha learn.

    The loss is F on a validation batch and f on a training batch: the mean of w * [MSE(sigmoid(student / 4),
    sigmoid(teacher / 4)) + BCE(student, pseudo-mask)], averaged over the student's maps, which are all distilled from
    the teacher's finest map. Teacher logits are detached here; weights are not.

    Args:
        student_maps: the student's logit maps, finest first.
        teacher_logits: the teacher's finest map, (B, 1, H, W).
        targets: (B, 1, H, W) pseudo-masks.
        weights: (B,) sample weights, differentiable in alpha.
        loss: per-sample loss on the pseudo-masks; published: BCE.

    Returns:
        a scalar.
    """
    teacher = teacher_logits.detach()
    distilled = torch.stack([distillation(logits, teacher) for logits in student_maps]).mean(0)
    return (weights * (distilled + supervise(student_maps, targets, loss))).mean()
