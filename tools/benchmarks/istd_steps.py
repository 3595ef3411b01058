"""The inner and the outer step of hierarchical distillation, against forward passes that share nothing."""

import argparse
import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.harness import Case, Comparison, Goal, scenario
from istd.data.view import View
from istd.engine.bilevel import TINY, Forward, batch_loss, outer_gradients
from istd.losses import inner_losses
from istd.modeling import SCAM, build_network, build_vfm
from istd.modeling.batch import Batch
from istd.modeling.feature_cache import FeatureCache
from istd.modeling.point_supervised import PointSupervisedISTD

ETA = 1e-3
VFM = ["vit_small_patch14_dinov2", "random"]  # Untrained weights are as fast as trained ones.


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    steps = "inner_step, outer_step"
    parser.add_argument("--network", default="MLCLNet", help=f"{steps}: without dropout (MLCLNet, ALCLNet)")
    parser.add_argument("--crop", type=int, default=256, help=f"{steps}: pixels of a crop's side")
    parser.add_argument("--batch", type=int, default=4, help=f"{steps}: crops a batch")
    vfm_help = f"{steps}: foundation model (default: untrained)"
    parser.add_argument("--vfm", nargs=2, default=VFM, metavar=("NAME", "FILE"), help=vfm_help)


def draw_crops(count: int, side: int, *, whole: bool, seed: int) -> list[dict]:
    """Dicts as `ISTDMapper` gives them: noise with a bright target; `whole`: the crop is the whole image, unturned."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(side, side)
    mask[side // 2 - 3 : side // 2 + 2, side // 3 : side // 3 + 5] = 1
    edge = side if whole else 2 * side
    crops = []
    for i in range(count):
        gray = torch.randint(0, 150, (1, side, side), generator=generator) + 80 * mask
        source = {"file_name": f"{seed}-{i}.png", "height": edge, "width": edge, "cluster": i % 2}
        view = View((0, 0, side, side), side)
        crops.append({**source, "image": gray.expand(3, -1, -1), "pseudo_mask": mask, "view": view})
    return crops


def build_pair(options: argparse.Namespace) -> tuple[PointSupervisedISTD, PointSupervisedISTD]:
    """A copy of the model in the plain memory layout, and the model as it ships, both in training mode."""
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
    """The teacher's or the student's logit maps by a pass of its own, the teacher's foundation model included."""
    features = model.network.encoder(batch.images)
    if teacher:
        features = model.scam(model._features.vfm(batch.gray / 255), features)
    return model.network.head(features, tuple(batch.images.shape[-2:]))


def gradient(model: PointSupervisedISTD, losses: dict[str, Tensor]) -> Tensor:
    """(parameters,) gradient of the losses' sum, flat."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(sum(losses.values()), learned)])


def inner_plainly(model: PointSupervisedISTD, crops: list[dict]) -> Tensor:
    """Gradient of the inner loss by a teacher and a student pass that share nothing."""
    batch = model.collect(crops)
    with torch.no_grad():
        student = maps_alone(model, batch, teacher=False)[0]
    teacher = maps_alone(model, batch, teacher=True)
    weights, penalty = model.inner_weights(batch), model.scam.gate_penalty()
    return gradient(model, inner_losses(teacher, student, batch.targets, weights, penalty, **model.loss_weights))


def outer_plainly(model: PointSupervisedISTD, train: list[dict], validation: list[dict]) -> Tensor:
    """Hyper-gradient by three losses, each of passes of its own: F, f for the fraction, and the implicit term's f."""
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
    """The same as the outer step computes it."""
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
    """Norm of the gradients' difference over that of the plain way's."""
    return {"gradient": ((plain - ours).norm() / plain.norm()).item()}


def _case(options: argparse.Namespace, ways: dict[str, Callable], tolerance: float, share: float, **settings) -> Case:
    goal = Goal(f"at most {share:g} of the time", "speed_ratio", 1 / share)
    named = {"network": options.network, "crop": options.crop, "batch": options.batch, "vfm": options.vfm[0]}
    comparison = Comparison(*ways, relative_difference, {"gradient": tolerance}, [goal])
    return Case({**named, **settings}, ways, [comparison])


@scenario("inner_step", "inner step, against a teacher and a student pass that share nothing")
def inner_step(options: argparse.Namespace) -> Iterator[Case]:
    for views, whole, tolerance in (("crops", False, 1e-3), ("whole images", True, 1e-2)):
        plain, ours = build_pair(options)
        crops = draw_crops(options.batch, options.crop, whole=whole, seed=1)
        ways = {
            "teacher and student pass": lambda m=plain, c=crops: inner_plainly(m, c),
            "one encoder pass": lambda m=ours, c=crops: gradient(m, m.inner(m.collect(c))),
        }
        # The features of whole images are kept, rounded to float16.
        yield _case(options, ways, tolerance, 0.8, views=views)


@scenario("outer_step", "outer step, against three losses with passes of their own")
def outer_step(options: argparse.Namespace) -> Iterator[Case]:
    plain, ours = build_pair(options)
    train, validation = (draw_crops(options.batch, options.crop, whole=False, seed=seed) for seed in (1, 2))
    ways = {
        "three losses": lambda: outer_plainly(plain, train, validation),
        "two shared passes": lambda: outer_shared(ours, train, validation),
    }
    # In one memory layout both are equal to 1e-5; another one rounds sums differently, which BatchNorm amplifies.
    yield _case(options, ways, 1e-2, 0.6)
