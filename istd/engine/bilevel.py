"""The outer level of hierarchical distillation: gradients for the student and the cluster weights.

Paper: arXiv 2605.14346. With theta the student's weights, alpha the clusters' scalars, F the loss of a validation batch
and f that of a training batch, the hyper-gradient is the one-step Gauss-Newton (outer-product) form

    grad F - eta * grad[ -( <F_theta, f_theta> / (<f_theta, f_theta> + 1e-12) ) f ]

the fraction a constant, for theta and alpha together. It is a sum of two gradients that one pass each gives, so
no loss is computed twice: grad F + eta * fraction * grad f.

What the second, implicit term does: its weight is eta, the inner learning rate, so it hardly turns the student's
gradient (0.07 % in one measured batch), whatever the loss. alpha is different: F of the published form holds alpha, in
the weights of the validation batch, and its direct gradient hides the implicit one. With the loss "unweighted" F does
not hold alpha: its whole gradient is the implicit term, whose small scale an AdamW step does not see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from istd.losses import SampleLoss, bce, outer_loss, sample_weights

LOSSES = ("published", "unweighted")
TINY = 1e-12

Reduce = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class OuterGradients:
    """Gradients of one outer step, in the shapes of theta and alpha.

    Attributes:
        fraction: <F_theta, f_theta> / (<f_theta, f_theta> + 1e-12).
        share_theta, share_alpha: norm of the implicit term over the sum of both terms' norms, in [0, 1]; 0 where both
            are zero.
    """

    theta: list[Tensor]
    alpha: Tensor
    fraction: float
    share_theta: float
    share_alpha: float


@dataclass(frozen=True)
class Forward:
    """What one forward pass of a batch gives the outer level.

    student_maps: logits with gradient, finest first. teacher_logits: (B, 1, H, W). targets: (B, 1, H, W).
    clusters: (B,) int64. all_clusters: those of the whole batch, where it is shared over processes.
    """

    student_maps: Sequence[Tensor]
    teacher_logits: Tensor
    targets: Tensor
    clusters: Tensor
    all_clusters: Tensor | None = None


def batch_loss(forward: Forward, alpha: Tensor, *, weighted: bool = True, loss: SampleLoss = bce) -> Tensor:
    """mean of w * [MSE(sigmoid(student / 4), sigmoid(teacher / 4)) + loss(student, pseudo-mask)], a scalar.

    Args:
        forward: of a validation batch (F) or a training batch (f).
        alpha: (clusters,), differentiable.
        weighted: w by `sample_weights`; False: w = 1.
        loss: supervision per sample; published: BCE.
    """
    ones = alpha.new_ones(len(forward.clusters))
    weights = sample_weights(alpha, forward.clusters, forward.all_clusters) if weighted else ones
    return outer_loss(forward.student_maps, forward.teacher_logits, forward.targets, weights, loss=loss)


def outer_gradients(
    outer: Tensor, inner: Tensor, theta: Sequence[Tensor], alpha: Tensor, eta: float, reduce: Reduce | None = None
) -> OuterGradients:
    """The hyper-gradient of one outer step.

    Args:
        outer, inner: the scalars F and f, with graphs of their own.
        theta: the student's weights; one that a loss does not reach has a gradient of zero there.
        alpha: (clusters,), requires gradient.
        eta: inner learning rate.
        reduce: averages gradients over processes; None: one process.

    Returns:
        gradients, without graph.
    """
    outer_grads = _gradients(outer, theta, alpha, reduce)
    inner_grads = _gradients(inner, theta, alpha, reduce)
    product = _dot(outer_grads[:-1], inner_grads[:-1])
    fraction = product / (_dot(inner_grads[:-1], inner_grads[:-1]) + TINY)
    implicit = torch._foreach_mul(inner_grads, float(eta * fraction))
    total = torch._foreach_add(outer_grads, implicit)
    return OuterGradients(
        theta=list(total[:-1]),
        alpha=total[-1],
        fraction=float(fraction),
        share_theta=_share(implicit[:-1], outer_grads[:-1]),
        share_alpha=_share(implicit[-1:], outer_grads[-1:]),
    )


def _gradients(loss: Tensor, theta: Sequence[Tensor], alpha: Tensor, reduce: Reduce | None) -> list[Tensor]:
    wanted = [*theta, alpha]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    grads = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]
    return grads if reduce is None else reduce(grads)


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def _share(part: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    one, two = (float(_dot(grads, grads).sqrt()) for grads in (part, other))
    return one / (one + two) if one + two > 0 else 0.0
