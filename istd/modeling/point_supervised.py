"""The meta-architecture of point-supervised ISTD: one network as student and, modulated by SCAM, as its own teacher."""

import contextlib
import copy
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from d2kit.ema import update_ema
from d2kit.finite import require_finite_losses
from d2kit.ranges import check_values
from istd.losses import SUPERVISION, inner_losses, sample_weights, supervise
from istd.modeling.backbones import Network, build_network, frozen_statistics
from istd.modeling.batch import Batch, batch_key, gather_processes
from istd.modeling.feature_cache import FeatureCache, view_key
from istd.modeling.scam import SCAM
from istd.modeling.vfm import build_vfm
from istd.ranges import ISTD_VALUES
from istd.recipe import PAD_MULTIPLE, pad_to_multiple

ANSWERS = ("student", "teacher", "both")


@META_ARCH_REGISTRY.register()
class PointSupervisedISTD(nn.Module):
    """A lightweight network that learns from pseudo-masks, with a teacher of the same weights (arXiv 2605.14346).

    In training the model takes dicts of `ISTDMapper` and returns the inner losses. In eval mode it returns each image's
    target probability at the image's own size. The foundation model is not a submodule, so that checkpoints, optimizers
    and DDP buckets do not hold it. Without SCAM teacher and student are one, as in the schemes full, LESPS and PAL.

    Attributes:
        network: encoder and head; these weights alone are the deployed detector.
        scam: modulation of the teacher, or None.
        average: moving averages {"network", "scam"} that answer in eval mode, or None.
        alpha: (clusters,) scalars that give the sample weights; None makes all weights 1. The outer step owns them.
    """

    @configurable
    def __init__(
        self,
        *,
        network: Network,
        scam: SCAM | None = None,
        features: FeatureCache | None = None,
        mean: float = 95.010,
        std: float = 41.511,
        loss: str = "bce",
        distill_weight: float = 0.1,
        gate_weight: float = 0.005,
        answer: str = "both",
        averaged: bool = False,
        channels_last: bool = True,
    ):
        """
        Args:
            network: network made by `build_network`.
            scam: modulation that fits the network's stages; it needs `features`.
            features: frozen foundation model behind its cache.
            mean, std: normalization of gray values 0..255.
            loss: name in `istd.losses.SUPERVISION` of the loss on pseudo-masks; published: bce.
            distill_weight, gate_weight: weights in the inner loss.
            answer: student, teacher or both; eval mode returns their probabilities.
            averaged: keep moving averages of the weights.
            channels_last: use the channels-last memory layout, which is 8 to 10 % faster on a CPU.
        """
        super().__init__()
        if loss not in SUPERVISION:
            raise ValueError(f"ISTD.LOSS.MASK must be one of {', '.join(SUPERVISION)}, not '{loss}'.")
        if answer not in ANSWERS:
            raise ValueError(f"ISTD.TEST.NETWORK must be one of {', '.join(ANSWERS)}, not '{answer}'.")
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self._format)
        self.scam = scam
        self._features = features
        self.loss = SUPERVISION[loss]
        self.answer = answer
        self.loss_weights = {"distill_weight": distill_weight, "gate_weight": gate_weight}
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.register_buffer("alpha", None, persistent=False)
        self.average = self._make_average() if averaged else None
        self.register_load_state_dict_pre_hook(_accept_plain_network)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read ISTD.NETWORK, SCAM, VFM, LOSS, INPUT, TEST.NETWORK and SCHEDULE.EMA_DECAY."""
        check_values(cfg, ISTD_VALUES)
        node = cfg.ISTD
        network = network_from_config(cfg)
        scam = features = None
        scale = network.modulation_scale if node.SCAM.SCALE < 0 else node.SCAM.SCALE
        if node.SCAM.ENABLED and scale > 0:
            vfm = build_vfm(node.VFM.NAME, node.VFM.CHECKPOINT, pretrained=node.VFM.PRETRAINED, layers=node.VFM.LAYERS)
            features = FeatureCache(vfm, node.VFM.CACHE_GIB, node.VFM.CACHE)
            stages = node.SCAM.STAGES or None
            scam = SCAM(vfm.feature_dim, network.stage_channels, vfm.layers, scale=scale, stages=stages)
        return {
            "network": network,
            "scam": scam,
            "features": features,
            "mean": node.INPUT.MEAN,
            "std": node.INPUT.STD,
            "loss": node.LOSS.MASK,
            "distill_weight": node.LOSS.DISTILL,
            "gate_weight": node.LOSS.GATE,
            "answer": node.TEST.NETWORK,
            "averaged": node.SCHEDULE.EMA_DECAY > 0,
        }

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.mean.device

    @property
    def has_teacher(self) -> bool:
        """Whether the teacher differs from the student."""
        return self.scam is not None and self.scam.active

    def train(self, mode: bool = True) -> "PointSupervisedISTD":
        """Set the mode of the network and SCAM; the averages always stay in eval mode."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    def update_average(self, decay: float) -> None:
        """Set average <- decay * average + (1 - decay) * weights; a decay of 0 copies the weights."""
        for name, module in (self.average or {}).items():
            update_ema(module, getattr(self, name), decay)

    def forward(self, batched_inputs: Sequence[dict]) -> dict[str, Tensor] | list[dict]:
        """Return the inner losses in training and one dict for each image in eval mode.

        The dict holds `probability` (H, W) and, if student and teacher both answer, `teacher_probability` (H, W).
        """
        if self.training:
            return self.inner(self.collect(batched_inputs))
        answer = self.answer if self.has_teacher else "student"
        answers = [self.probabilities(image, answer) for image in batched_inputs]
        return [dict(zip(("probability", "teacher_probability"), maps.values(), strict=False)) for maps in answers]

    def collect(self, batched_inputs: Sequence[dict]) -> Batch:
        """Stack the crops of `ISTDMapper` to one batch on the model's device."""
        gray = self._layout(torch.stack([image["image"] for image in batched_inputs]))
        targets = torch.stack([image["pseudo_mask"] for image in batched_inputs])[:, None].to(self.device)
        clusters = torch.tensor([image.get("cluster", 0) for image in batched_inputs], device=self.device)
        return Batch(
            images=(gray - self.mean) / self.std,
            gray=gray,
            targets=targets,
            clusters=clusters,
            all_clusters=clusters if self.alpha is None else gather_processes(clusters),
            keys=[batch_key(image) for image in batched_inputs],
            names=[str(image.get("file_name", "?")) for image in batched_inputs],
        )

    def inner(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses that train the teacher; without SCAM they are `loss_mask` alone.

        Raises:
            FloatingPointError: a term is not finite; the message names the term and the images.
        """
        weights = self.inner_weights(batch)
        if self.has_teacher:
            student, teacher = self.both_maps(batch, learner="teacher")
            penalty = self.scam.gate_penalty()
            settings = {"loss": self.loss, **self.loss_weights}
            losses = inner_losses(teacher, student[0], batch.targets, weights, penalty, **settings)
        else:
            teacher = self.network.head(self.network.encoder(batch.images), tuple(batch.images.shape[-2:]))
            losses = {"loss_mask": (weights * supervise(teacher, batch.targets, self.loss)).mean()}
        require_finite_losses(losses, lambda: self._bad_images(teacher, batch))
        return losses

    def inner_weights(self, batch: Batch) -> Tensor:
        """Return the (B,) sample weights that follow from alpha, or ones without alpha."""
        if self.alpha is None:
            return batch.targets.new_ones(len(batch.targets))
        return sample_weights(self.alpha, batch.clusters, batch.all_clusters)

    def both_maps(self, batch: Batch, *, learner: str) -> tuple[list[Tensor], list[Tensor]]:
        """Return the student's and the teacher's logit maps from one pass of the encoder.

        BatchNorm records the encoder's and the student's statistics once each if the teacher learns. It records nothing
        if the student learns, because that is the outer step, which sees validation images.

        Args:
            batch: crops of `collect`.
            learner: "teacher" or "student"; only the learner's maps have a gradient.
        """
        size = tuple(batch.images.shape[-2:])
        teacher_learns = learner == "teacher"
        with contextlib.nullcontext() if teacher_learns else frozen_statistics(self.network):
            features = self.network.encoder(batch.images)
            with torch.set_grad_enabled(not teacher_learns):
                student = self.network.head(features, size)
        if not self.has_teacher:
            return student, [logits.detach() for logits in student]
        tokens = self._features(batch.gray / 255, batch.keys)
        with torch.set_grad_enabled(teacher_learns), frozen_statistics(self.network):
            teacher = self.network.head(self.scam(tokens, features), size)
        return student, teacher

    @torch.no_grad()
    def probabilities(self, image: dict, answer: str = "both") -> dict[str, Tensor]:
        """Return the target probabilities of one whole image; the model must be in eval mode.

        Args:
            image: dict with `image` (C, H, W) gray values 0..255 and `file_name`.
            answer: student, teacher or both.

        Returns:
            {"student": (H, W), "teacher": (H, W)} as `answer` says; without SCAM the teacher is the student.
        """
        parts = self.average or {"network": self.network, "scam": self.scam}
        network = parts["network"]
        gray = self._layout(image["image"][None])
        size = tuple(gray.shape[-2:])
        padded = pad_to_multiple((gray - self.mean) / self.std, PAD_MULTIPLE)
        features = network.encoder(padded)
        result = {}
        if answer != "teacher" or not self.has_teacher:
            result["student"] = network.head(features, size)[0][0, 0].float().sigmoid()
        if answer != "student":
            if self.has_teacher:
                tokens = self._features(gray / 255, [view_key(str(image["file_name"]), size)])
                logits = network.head(parts["scam"](tokens, features), size)[0]
                result["teacher"] = logits[0, 0].float().sigmoid()
            else:
                result["teacher"] = result["student"]
        return result

    def _layout(self, gray: Tensor) -> Tensor:
        return gray.to(self.device, torch.float32, non_blocking=True).contiguous(memory_format=self._format)

    def _make_average(self) -> nn.ModuleDict:
        parts = {"network": self.network, "scam": self.scam}
        average = nn.ModuleDict({name: copy.deepcopy(part) for name, part in parts.items() if part is not None})
        return average.requires_grad_(False).eval()

    def _bad_images(self, maps: Sequence[Tensor], batch: Batch) -> Sequence[str]:
        """Return the names of the images whose own loss is not finite, or all names if there are none."""
        finite = torch.isfinite(supervise(maps, batch.targets, self.loss)).tolist()
        return [name for name, is_finite in zip(batch.names, finite, strict=True) if not is_finite] or batch.names


def network_options(cfg: CfgNode) -> dict:
    """Return the options that ISTD.NETWORK and ISTD.INPUT.CHANNELS set for `build_network`, without output_bias."""
    node = cfg.ISTD.NETWORK
    options = {
        "in_channels": cfg.ISTD.INPUT.CHANNELS,
        "norm": node.NORM or None,
        "momentum": node.MOMENTUM if node.MOMENTUM >= 0 else None,
        "blocks": node.BLOCKS or None,
    }
    return {name: value for name, value in options.items() if value is not None}


def network_from_config(cfg: CfgNode) -> Network:
    """Build the network that ISTD.NETWORK and ISTD.INPUT.CHANNELS describe, with fresh weights."""
    node = cfg.ISTD.NETWORK
    options = network_options(cfg)
    try:
        return build_network(node.NAME, output_bias=node.OUTPUT_BIAS or None, **options)
    except TypeError as error:
        refused = [name.upper() for name in options if f"'{name}'" in str(error)]
        raise ValueError(f"{node.NAME} has no option ISTD.NETWORK.{', '.join(refused)}: leave it out.") from error


def _accept_plain_network(module: PointSupervisedISTD, state_dict: dict, prefix: str, *_) -> None:
    """Accept a file of one network (`istd.checkpoints.save_network`) as MODEL.WEIGHTS, and fill missing averages."""
    parts = tuple(f"{prefix}{name}." for name in ("network", "scam", "average"))
    if not any(key.startswith(parts) for key in state_dict):
        for key in list(state_dict):
            state_dict[f"{parts[0]}{key.removeprefix(prefix)}"] = state_dict.pop(key)
    if module.average is not None and not any(key.startswith(parts[2]) for key in state_dict):
        # The averages answer in eval mode; without this they would answer with their initial, random weights.
        trained = [key for key in state_dict if key.startswith(parts[:2])]
        state_dict.update({f"{parts[2]}{key.removeprefix(prefix)}": state_dict[key] for key in trained})
