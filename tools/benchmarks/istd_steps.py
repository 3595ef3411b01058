"""The scenarios compare the steps of hierarchical distillation with forward passes that share nothing."""

import argparse
import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.harness import Case, Comparison, Goal, Way
from istd.data.view import View
from istd.engine.bilevel import TINY, Forward, batch_loss, outer_gradients
from istd.losses import inner_losses
from istd.modeling import SCAM, build_network, build_vfm
from istd.modeling.batch import Batch
from istd.modeling.feature_cache import FeatureCache
from istd.modeling.point_supervised import PointSupervisedISTD

ETA = 1e-3
VFM = ["vit_small_patch14_dinov2", "random"]  # Untrained weights are as fast as trained ones.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of both scenarios."""
    steps = "inner_step, outer_step"
    parser.add_argument("--network", default="MLCLNet", help=f"{steps}: without dropout (MLCLNet, ALCLNet)")
    parser.add_argument("--crop", type=int, default=256, help=f"{steps}: pixels of a crop's side")
    parser.add_argument("--batch", type=int, default=4, help=f"{steps}: crops a batch")
    parser.add_argument("--vfm", nargs=2, default=VFM, metavar=("NAME", "FILE"), help=f"{steps}: foundation model")


def draw_crops(count: int, side: int, *, whole: bool, seed: int) -> list[dict]:
    """Draw noise with a bright target as `ISTDMapper` returns it; with `whole` a crop is its whole image, unturned."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(side, side)
    mask[side // 2 - 3 : side // 2 + 2, side // 3 : side // 3 + 5] = 1
    edge = side if whole else 2 * side
    common = {"height": edge, "width": edge, "pseudo_mask": mask, "view": View((0, 0, side, side), side)}
    crops = []
    for i in range(count):
        gray = torch.randint(0, 150, (1, side, side), generator=generator) + 80 * mask
        crops.append({**common, "file_name": f"{seed}-{i}.png", "cluster": i % 2, "image": gray.expand(3, -1, -1)})
    return crops


def build_pair(options: argparse.Namespace) -> tuple[PointSupervisedISTD, PointSupervisedISTD]:
    """Return a copy of the model in the plain memory layout, and the model as it ships, both in training mode."""
    torch.manual_seed(0)
    network = build_network(options.network)
    vfm = build_vfm(*options.vfm)
    scam = SCAM(vfm.feature_dim, network.stage_channels, vfm.layers, 128, network.modulation_scale)
    nn.init.normal_(scam.mlp[-1].weight, std=0.05)  # A new SCAM changes nothing: teacher and student would be one.
    parts = {"network": network, "scam": scam}
    plain = PointSupervisedISTD(**copy.deepcopy(parts), features=FeatureCache(vfm), channels_last=False)
    ours = PointSupervisedISTD(**parts, features=FeatureCache(vfm))
    for model in (plain, ours):
        model.to(options.device).train()
        model.alpha = torch.tensor([0.3, -0.2], device=options.device)
    return plain, ours


def maps_alone(model: PointSupervisedISTD, batch: Batch, *, teacher: bool) -> list[Tensor]:
    """Return the teacher's or the student's logit maps by a pass of its own, the foundation model included."""
    features = model.network.encoder(batch.images)
    if teacher:
        features = model.scam(model._features.vfm(batch.gray / 255), features)
    return model.network.head(features, tuple(batch.images.shape[-2:]))


def gradient(model: PointSupervisedISTD, losses: dict[str, Tensor]) -> Tensor:
    """Return the flat gradient (parameters,) of the losses' sum."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(sum(losses.values()), learned)])


def inner_plainly(model: PointSupervisedISTD, crops: list[dict]) -> Tensor:
    """Return the gradient of the inner loss by a teacher and a student pass that share nothing."""
    batch = model.collect(crops)
    with torch.no_grad():
        student = maps_alone(model, batch, teacher=False)[0]
    teacher = maps_alone(model, batch, teacher=True)
    weights = model.inner_weights(batch)
    penalty = model.scam.gate_penalty()
    return gradient(model, inner_losses(teacher, student, batch.targets, weights, penalty, **model.loss_weights))


def inner_shared(model: PointSupervisedISTD, crops: list[dict]) -> Tensor:
    """Return the gradient of the inner loss as the inner step computes it."""
    return gradient(model, model.inner(model.collect(crops)))


def outer_plainly(model: PointSupervisedISTD, train: list[dict], validation: list[dict]) -> Tensor:
    """Return the hyper-gradient by three losses with passes of their own: F, f of the fraction, f of the last term."""
    theta = list(model.network.parameters())
    alpha = model.alpha.detach().requires_grad_()

    def loss(crops: list[dict]) -> Tensor:
        batch = model.collect(crops)
        with torch.no_grad():
            teacher = maps_alone(model, batch, teacher=True)[0]
        student = maps_alone(model, batch, teacher=False)
        return batch_loss(Forward(student, teacher, batch.targets, batch.clusters, batch.all_clusters), alpha)

    outer = torch.autograd.grad(loss(validation), [*theta, alpha])
    inner = torch.autograd.grad(loss(train), theta)
    product = sum((a * b).sum() for a, b in zip(outer[:-1], inner, strict=True))
    square = sum((a * a).sum() for a in inner)
    implicit = torch.autograd.grad(-(product / (square + TINY)).detach() * loss(train), [*theta, alpha])
    return torch.cat([(a - ETA * b).reshape(-1) for a, b in zip(outer, implicit, strict=True)])


def outer_shared(model: PointSupervisedISTD, train: list[dict], validation: list[dict]) -> Tensor:
    """Return the hyper-gradient as the outer step computes it."""
    alpha = model.alpha.detach().requires_grad_()
    losses = []
    for crops in (validation, train):
        batch = model.collect(crops)
        student, teacher = model.both_maps(batch, learner="student")
        forward = Forward(student, teacher[0], batch.targets, batch.clusters, batch.all_clusters)
        losses.append(batch_loss(forward, alpha))
    gradients = outer_gradients(*losses, list(model.network.parameters()), alpha, ETA)
    return torch.cat([part.reshape(-1) for part in (*gradients.theta, gradients.alpha)])


def relative_difference(plain: Tensor, ours: Tensor) -> dict[str, float]:
    """Return the norm of the gradients' difference over the norm of the plain way's gradient."""
    return {"gradient": (plain - ours).norm() / plain.norm()}


def make_case(options: argparse.Namespace, ways: dict[str, Way], tolerance: float, share: float, **settings) -> Case:
    """Return a case whose second way should take at most this share of the first way's time."""
    goal = Goal(f"at most {share:g} of the time", "speed_ratio", 1 / share)
    named = {"network": options.network, "crop": options.crop, "batch": options.batch, "vfm": options.vfm[0]}
    comparison = Comparison(*ways, relative_difference, {"gradient": tolerance}, [goal])
    return Case({**named, **settings}, ways, [comparison])


def inner_step(options: argparse.Namespace) -> Iterator[Case]:
    """The inner step is compared with a teacher and a student pass that share nothing."""
    for views, whole, tolerance in (("crops", False, 1e-3), ("whole images", True, 1e-2)):
        plain, ours = build_pair(options)
        crops = draw_crops(options.batch, options.crop, whole=whole, seed=1)
        ways = {
            "teacher and student pass": partial(inner_plainly, plain, crops),
            "one encoder pass": partial(inner_shared, ours, crops),
        }
        # The features of whole images are kept, rounded to float16.
        yield make_case(options, ways, tolerance, 0.8, views=views)


def outer_step(options: argparse.Namespace) -> Iterator[Case]:
    """The outer step is compared with three losses that have passes of their own."""
    plain, ours = build_pair(options)
    train, validation = (draw_crops(options.batch, options.crop, whole=False, seed=seed) for seed in (1, 2))
    ways = {
        "three losses": partial(outer_plainly, plain, train, validation),
        "two shared passes": partial(outer_shared, ours, train, validation),
    }
    # In one memory layout both are equal to 1e-5; another one rounds sums differently, which BatchNorm amplifies.
    yield make_case(options, ways, 1e-2, 0.6)
