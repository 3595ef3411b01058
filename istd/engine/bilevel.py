"""The outer level of hierarchical distillation: gradients for the student and the cluster weights.

Paper: arXiv 2605.14346. With theta the student's weights, alpha the clusters' scalars, F the loss of a validation batch
and f that of a training batch, the hyper-gradient is the one-step Gauss-Newton (outer-product) form

    grad F - eta * grad[ -fraction * f ],    fraction = <F_theta, f_theta> / (<f_theta, f_theta> + 1e-12),

where the fraction is a constant. It equals grad F + eta * fraction * grad f, so one backward pass per loss is enough.

The implicit term eta * fraction * grad f is small, because eta is the inner learning rate: it hardly turns the
student's gradient (0.07 % in one measured batch). For alpha, the published F weights the validation batch by alpha, and
this direct gradient hides the implicit one. With the loss "unweighted", F does not depend on alpha: the whole gradient
of alpha is the implicit term, whose small scale does not matter to an AdamW step.

Example: F_theta = (-2, 3) and f_theta = (1, 2) give fraction = 4 / 5. With eta = 0.1 the student's gradient is
(-2, 3) + 0.08 * (1, 2) = (-1.92, 3.16).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from istd.losses import SampleLoss, bce, outer_loss, sample_weights

TINY = 1e-12


@dataclass(frozen=True)
class OuterGradients:
    """Gradients of one outer step, in the shapes of theta and alpha.

    Attributes:
        fraction: the factor of the implicit term, see the module.
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
    """The results of one forward pass that the outer level needs.

    student_maps: logits with gradient, finest first. teacher_logits: (B, 1, H, W). targets: (B, 1, H, W).
    clusters: (B,) int64. all_clusters: the clusters of the whole batch, where processes share it.
    """

    student_maps: Sequence[Tensor]
    teacher_logits: Tensor
    targets: Tensor
    clusters: Tensor
    all_clusters: Tensor | None = None


def batch_loss(forward: Forward, alpha: Tensor, *, weighted: bool = True, loss: SampleLoss = bce) -> Tensor:
    """Return the mean of w * [MSE(sigmoid(student / 4), sigmoid(teacher / 4)) + loss(student, pseudo-mask)], a scalar.

    Args:
        forward: a validation batch (for F) or a training batch (for f).
        alpha: (clusters,), differentiable.
        weighted: whether w comes from `sample_weights`; otherwise w is 1.
        loss: supervision per sample; the published one is BCE.
    """
    ones = alpha.new_ones(len(forward.clusters))
    weights = sample_weights(alpha, forward.clusters, forward.all_clusters) if weighted else ones
    return outer_loss(forward.student_maps, forward.teacher_logits, forward.targets, weights, loss=loss)


def outer_gradients(
    outer: Tensor,
    inner: Tensor,
    theta: Sequence[Tensor],
    alpha: Tensor,
    eta: float,
    reduce: Callable[[list[Tensor]], list[Tensor]] = list,
) -> OuterGradients:
    """Return the hyper-gradient of one outer step.

    Args:
        outer, inner: the scalars F and f, each with its own graph.
        theta: the student's weights; a loss that does not reach one gives it a zero gradient.
        alpha: (clusters,), requires gradient.
        eta: inner learning rate.
        reduce: function that averages gradients over processes.
    """
    parameters = [*theta, alpha]
    outer_grads = reduce(list(torch.autograd.grad(outer, parameters, materialize_grads=True)))
    inner_grads = reduce(list(torch.autograd.grad(inner, parameters, materialize_grads=True)))
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


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def _share(implicit: Sequence[Tensor], direct: Sequence[Tensor]) -> float:
    implicit_norm, direct_norm = (float(_dot(grads, grads).sqrt()) for grads in (implicit, direct))
    total = implicit_norm + direct_norm
    return implicit_norm / total if total > 0 else 0.0
