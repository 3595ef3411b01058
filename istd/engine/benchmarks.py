"""Benchmark scenarios of the inner and the outer step, against forward passes that share nothing."""

import argparse
import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from d2kit.benchmark import Case, Comparison, Goal, Scenario
from istd.data.view import View
from istd.engine.bilevel import TINY, Forward, batch_loss, outer_gradients
from istd.losses import inner_losses
from istd.modeling import SCAM, build_network, build_vfm
from istd.modeling.batch import Batch
from istd.modeling.feature_cache import FeatureCache
from istd.modeling.point_supervised import PointSupervisedISTD

_INNER, _OUTER = 0.8, 0.6  # of the plain way's time
_ETA = 1e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of these scenarios, within the group of istd."""
    parser.add_argument(
        "--network", default="MLCLNet", help="inner_step, outer_step: without dropout (MLCLNet, ALCLNet)"
    )
    parser.add_argument("--crop", type=int, default=256, help="inner_step, outer_step: pixels of a crop's side")
    parser.add_argument("--batch", type=int, default=4, help="inner_step, outer_step: crops a batch")
    parser.add_argument(
        "--vfm",
        nargs=2,
        default=["vit_small_patch14_dinov2", "random"],
        metavar=("NAME", "FILE"),
        help="inner_step, outer_step: foundation model (default: untrained weights, which are as fast)",
    )


def draw_crops(count: int, side: int, *, whole: bool, seed: int) -> list[dict]:
    """Dicts as `ISTDMapper` gives them: noise with a bright target; `whole`: the crop is the whole image, unturned."""
    generator = torch.Generator().manual_seed(seed)
    crops = []
    for i in range(count):
        mask = torch.zeros(side, side)
        mask[side // 2 - 3 : side // 2 + 2, side // 3 : side // 3 + 5] = 1
        grey = torch.randint(0, 150, (1, side, side), generator=generator) + 80 * mask
        edge = side if whole else 2 * side
        crops.append(
            {
                "file_name": f"{seed}-{i}.png",
                "height": edge,
                "width": edge,
                "image": grey.expand(3, -1, -1),
                "pseudo_mask": mask,
                "cluster": i % 2,
                "view": View((0, 0, side, side), side),
            }
        )
    return crops


def build_pair(options: argparse.Namespace) -> tuple[PointSupervisedISTD, PointSupervisedISTD]:
    """The model as it ships, and a copy of its weights in the plain memory layout, in training mode."""
    torch.manual_seed(0)
    network = build_network(options.network)
    vfm = build_vfm(*options.vfm)
    scam = SCAM(vfm.feature_dim, network.stage_channels, vfm.layers, 128, network.modulation_scale)
    nn.init.normal_(scam.mlp[-1].weight, std=0.05)  # a new SCAM changes nothing: teacher and student would be one
    plain = PointSupervisedISTD(
        network=copy.deepcopy(network), scam=copy.deepcopy(scam), features=FeatureCache(vfm), channels_last=False
    )
    ours = PointSupervisedISTD(network=network, scam=scam, features=FeatureCache(vfm))
    for model in (plain, ours):
        model.to(options.device).train()
        model.alpha = torch.tensor([0.3, -0.2], device=options.device)
    return plain, ours


def teacher_alone(model: PointSupervisedISTD, batch: Batch) -> list[Tensor]:
    """The teacher's maps by a pass of its own, the foundation model included."""
    tokens = model._features.vfm(batch.grey / 255)
    return model.network.head(model.scam(tokens, model.network.encoder(batch.images)), tuple(batch.images.shape[-2:]))


def student_alone(model: PointSupervisedISTD, batch: Batch) -> list[Tensor]:
    """The student's maps by a pass of its own."""
    return model.network.head(model.network.encoder(batch.images), tuple(batch.images.shape[-2:]))


def _gradient(model: PointSupervisedISTD, losses: dict[str, Tensor]) -> Tensor:
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(sum(losses.values()), wanted)])


def inner_plainly(model: PointSupervisedISTD, crops: list[dict]) -> Tensor:
    """Gradient of the inner loss by a teacher and a student pass that share nothing."""
    batch = model.collect(crops)
    with torch.no_grad():
        student = student_alone(model, batch)
    losses = inner_losses(
        teacher_alone(model, batch),
        student[0],
        batch.targets,
        model.inner_weights(batch),
        model.scam.gate_penalty(),
        **model.loss_weights,
    )
    return _gradient(model, losses)


def outer_plainly(model: PointSupervisedISTD, train: list[dict], validation: list[dict]) -> Tensor:
    """Hyper-gradient by three losses, each of passes of its own: F, f for the fraction, and the implicit term's f."""
    theta = list(model.network.parameters())
    alpha = model.alpha.detach().requires_grad_()

    def loss(crops: list[dict]) -> Tensor:
        batch = model.collect(crops)
        with torch.no_grad():
            teacher = teacher_alone(model, batch)
        return batch_loss(
            Forward(student_alone(model, batch), teacher[0], batch.targets, batch.clusters, batch.all_clusters), alpha
        )

    outer = torch.autograd.grad(loss(validation), [*theta, alpha])
    inner = torch.autograd.grad(loss(train), theta)
    product, square = (
        sum((a * b).sum() for a, b in zip(one, inner, strict=True)) for one in (outer[: len(theta)], inner)
    )
    implicit = torch.autograd.grad(-(product / (square + TINY)).detach() * loss(train), [*theta, alpha])
    return torch.cat([(a - _ETA * b).reshape(-1) for a, b in zip(outer, implicit, strict=True)])


def outer_shared(model: PointSupervisedISTD, train: list[dict], validation: list[dict]) -> Tensor:
    """The same, as the outer step takes it."""
    alpha = model.alpha.detach().requires_grad_()
    losses = []
    for crops in (validation, train):
        batch = model.collect(crops)
        student, teacher = model.both_maps(batch, learner="student")
        forward = Forward(student, teacher[0], batch.targets, batch.clusters, batch.all_clusters)
        losses.append(batch_loss(forward, alpha))
    found = outer_gradients(*losses, list(model.network.parameters()), alpha, _ETA)
    return torch.cat([gradient.reshape(-1) for gradient in (*found.theta, found.alpha)])


def _relative(plain: Tensor, ours: Tensor) -> dict[str, float]:
    return {"gradient": ((plain - ours).norm() / plain.norm()).item()}


def _case(options: argparse.Namespace, ways: dict[str, Callable], most: float, share: float, **settings) -> Case:
    plain, ours = ways
    goal = Goal(f"at most {share:g} of the time", "speed_ratio", 1 / share)
    named = {"network": options.network, "crop": options.crop, "batch": options.batch, "vfm": options.vfm[0]}
    return Case({**named, **settings}, ways, [Comparison(plain, ours, _relative, {"gradient": most}, [goal])])


def _inner_cases(options: argparse.Namespace) -> Iterator[Case]:
    for whole in (False, True):
        plain, ours = build_pair(options)
        crops = draw_crops(options.batch, options.crop, whole=whole, seed=1)
        ways = {
            "teacher and student pass": lambda m=plain, c=crops: inner_plainly(m, c),
            "one encoder pass": lambda m=ours, c=crops: _gradient(m, m.inner(m.collect(c))),
        }
        # Kept features are rounded to float16.
        yield _case(options, ways, 1e-2 if whole else 1e-3, _INNER, views="whole images" if whole else "crops")


def _outer_cases(options: argparse.Namespace) -> Iterator[Case]:
    plain, ours = build_pair(options)
    train, validation = (draw_crops(options.batch, options.crop, whole=False, seed=seed) for seed in (1, 2))
    ways = {
        "three losses": lambda: outer_plainly(plain, train, validation),
        "two shared passes": lambda: outer_shared(ours, train, validation),
    }
    # In one memory layout both are equal to 1e-5; another one rounds sums differently, which BatchNorm amplifies.
    yield _case(options, ways, 1e-2, _OUTER)


SCENARIOS = [
    Scenario("inner_step", "inner step, against a teacher and a student pass that share nothing", _inner_cases),
    Scenario("outer_step", "outer step, against three losses with passes of their own", _outer_cases),
]
