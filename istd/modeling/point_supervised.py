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
from istd.losses import SUPERVISION, inner_losses, sample_weights, supervise
from istd.modeling.backbones import Network, build_network, frozen_statistics
from istd.modeling.batch import Batch, batch_key, of_all_processes
from istd.modeling.feature_cache import FeatureCache, view_key
from istd.modeling.scam import SCAM
from istd.modeling.vfm import build_vfm
from istd.recipe import pad_to_multiple

ANSWERS = ("student", "teacher", "both")


@META_ARCH_REGISTRY.register()
class PointSupervisedISTD(nn.Module):
    """A lightweight network that learns from pseudo-masks, with a teacher of the same weights (arXiv 2605.14346).

    Training takes dicts of `ISTDMapper` and returns the inner losses. In eval mode it gives each image's target
    probability at the image's own size. The foundation model is no submodule: it is in no checkpoint, optimizer or DDP
    bucket. Without SCAM teacher and student are one, and the schemes full, LESPS and PAL follow.

    Attributes:
        network: encoder and head; its weights alone are the deployed detector.
        scam: the teacher's modulation, or None.
        average: moving averages {"network", "scam"} that answer in eval mode, or None.
        alpha: (clusters,) scalars whose sample weights the loss uses; None: all weights are 1. The outer step owns
            them.
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
        temperature: float = 4.0,
        answer: str = "both",
        pad_multiple: int = 32,
        pad_always: bool = False,
        averaged: bool = False,
        channels_last: bool = True,
    ):
        """
        Args:
            network: of `build_network`.
            scam: fits the network's stages; needs `features`.
            features: the frozen foundation model behind its cache.
            mean, std: normalisation of grey values 0..255.
            loss: supervision by the pseudo-mask, a name of `istd.losses.SUPERVISION`; published: bce.
            distill_weight, gate_weight, temperature: of the inner loss.
            answer: student, teacher or both: whose probabilities eval mode gives.
            pad_multiple, pad_always: zero padding of whole images, see `pad_to_multiple`.
            averaged: keep moving averages of the weights.
            channels_last: memory layout of the network.
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
        self.loss, self.answer = SUPERVISION[loss], answer
        self.options = {"distill_weight": distill_weight, "gate_weight": gate_weight, "temperature": temperature}
        self.pad_multiple, self.pad_always = pad_multiple, pad_always
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.register_buffer("alpha", None, persistent=False)
        self.average = self._make_average() if averaged else None
        self.register_load_state_dict_pre_hook(_accept_plain_network)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read ISTD.NETWORK, SCAM, VFM, LOSS, INPUT, TEST and SCHEDULE.AVERAGE."""
        node = cfg.ISTD
        network = network_from_config(cfg)
        scam = features = None
        scale = network.modulation_scale if node.SCAM.SCALE < 0 else node.SCAM.SCALE
        if node.SCAM.ENABLED and scale > 0:
            vfm = build_vfm(node.VFM.NAME, node.VFM.CHECKPOINT, pretrained=node.VFM.PRETRAINED, layers=node.VFM.LAYERS)
            features = FeatureCache(vfm, node.VFM.CACHE_GIB, node.VFM.CACHE)
            scam = SCAM(
                vfm.feature_dim,
                network.stage_channels,
                vfm.layers,
                node.SCAM.HIDDEN_DIM,
                scale,
                node.SCAM.STAGES or None,
            )
        return {
            "network": network,
            "scam": scam,
            "features": features,
            "mean": node.INPUT.MEAN,
            "std": node.INPUT.STD,
            "loss": node.LOSS.MASK,
            "distill_weight": node.LOSS.DISTILL,
            "gate_weight": node.LOSS.GATE,
            "temperature": node.LOSS.TEMPERATURE,
            "answer": node.TEST.NETWORK,
            "pad_multiple": node.TEST.PAD_MULTIPLE,
            "pad_always": node.TEST.PAD_ALWAYS,
            "averaged": node.SCHEDULE.AVERAGE > 0,
            "channels_last": node.NETWORK.CHANNELS_LAST,
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
        """Set the mode of network and SCAM; the averages always stay in eval mode."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    def update_average(self, decay: float) -> None:
        """average <- decay * average + (1 - decay) * weights; decay 0 copies."""
        for name, module in (self.average or {}).items():
            update_ema(module, getattr(self, name), decay)

    def forward(self, batched_inputs: Sequence[dict]) -> dict[str, Tensor] | list[dict]:
        """Inner losses in training; in eval mode a dict an image, `probability` (H, W) and, where the teacher is asked
        for beside the student, `teacher_probability`."""
        if self.training:
            return self.inner(self.collect(batched_inputs))
        return [self._answer(image) for image in batched_inputs]

    def collect(self, batched_inputs: Sequence[dict]) -> Batch:
        """Stack the crops of `ISTDMapper` on the model's device."""
        grey = self._layout(torch.stack([image["image"] for image in batched_inputs]))
        targets = torch.stack([image["pseudo_mask"] for image in batched_inputs])[:, None].to(self.device)
        clusters = torch.tensor([image.get("cluster", 0) for image in batched_inputs], device=self.device)
        return Batch(
            images=(grey - self.mean) / self.std,
            grey=grey,
            targets=targets,
            clusters=clusters,
            everyone=clusters if self.alpha is None else of_all_processes(clusters),
            keys=[batch_key(image) for image in batched_inputs],
            names=[str(image.get("file_name", "?")) for image in batched_inputs],
        )

    def inner(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by which the teacher learns; without a teacher of its own, `loss_mask` alone.

        Raises:
            FloatingPointError: a term is not finite; it names the term and the images.
        """
        weights = self.inner_weights(batch)
        if self.has_teacher:
            student, teacher = self.both_maps(batch, learner="teacher")
            penalty = self.scam.gate_penalty()
            losses = inner_losses(teacher, student[0], batch.targets, weights, penalty, loss=self.loss, **self.options)
        else:
            teacher = self.network.head(self.network.encoder(batch.images), tuple(batch.images.shape[-2:]))
            losses = {"loss_mask": (weights * supervise(teacher, batch.targets, self.loss)).mean()}
        require_finite_losses(losses, lambda: self._bad_images(teacher, batch))
        return losses

    def inner_weights(self, batch: Batch) -> Tensor:
        """(B,) sample weights by alpha, 1 without it."""
        if self.alpha is None:
            return batch.targets.new_ones(len(batch.targets))
        return sample_weights(self.alpha, batch.clusters, batch.everyone)

    def both_maps(self, batch: Batch, *, learner: str) -> tuple[list[Tensor], list[Tensor]]:
        """The student's and the teacher's logit maps from one pass of the encoder.

        BatchNorm records the encoder's and the student's statistics, once each, where the teacher learns, and none
        where the student does: that is the outer step, which sees validation images.

        Args:
            learner: "teacher" or "student": whose maps have a gradient.
        """
        size = tuple(batch.images.shape[-2:])
        teaches = learner == "teacher"
        with contextlib.nullcontext() if teaches else frozen_statistics(self.network):
            features = self.network.encoder(batch.images)
            with torch.set_grad_enabled(not teaches):
                student = self.network.head(features, size)
        if not self.has_teacher:
            return student, [logits.detach() for logits in student]
        tokens = self._features(batch.grey / 255, batch.keys)
        with torch.set_grad_enabled(teaches), frozen_statistics(self.network):
            teacher = self.network.head(self.scam(tokens, features), size)
        return student, teacher

    @torch.no_grad()
    def probabilities(self, image: dict, answer: str = "both") -> dict[str, Tensor]:
        """Target probability of one whole image by the weights that answer in eval mode, which BatchNorm must be in.

        Args:
            image: dict with `image` (C, H, W) grey values 0..255 and `file_name`.
            answer: student, teacher or both.

        Returns:
            {"student": (H, W), "teacher": (H, W)}, those asked for; without SCAM the teacher is the student.
        """
        parts = self.average or {"network": self.network, "scam": self.scam}
        network = parts["network"]
        grey = self._layout(image["image"][None])
        size = tuple(grey.shape[-2:])
        padded = pad_to_multiple((grey - self.mean) / self.std, self.pad_multiple, always=self.pad_always)
        features = network.encoder(padded)
        result = {}
        if answer != "teacher" or not self.has_teacher:
            result["student"] = network.head(features, size)[0][0, 0].float().sigmoid()
        if answer != "student":
            if self.has_teacher:
                tokens = self._features(grey / 255, [view_key(str(image["file_name"]), size)])
                logits = network.head(parts["scam"](tokens, features), size)[0]
                result["teacher"] = logits[0, 0].float().sigmoid()
            else:
                result["teacher"] = result["student"]
        return result

    def _answer(self, image: dict) -> dict[str, Tensor]:
        found = self.probabilities(image, self.answer if self.has_teacher else "student")
        if self.answer == "teacher" and self.has_teacher:
            return {"probability": found["teacher"]}
        both = {"teacher_probability": found["teacher"]} if "teacher" in found else {}
        return {"probability": found["student"], **both}

    def _layout(self, grey: Tensor) -> Tensor:
        return grey.to(self.device, torch.float32, non_blocking=True).contiguous(memory_format=self._format)

    def _make_average(self) -> nn.ModuleDict:
        parts = {"network": self.network, "scam": self.scam}
        average = nn.ModuleDict({name: copy.deepcopy(part) for name, part in parts.items() if part is not None})
        return average.requires_grad_(False).eval()

    def _bad_images(self, maps: Sequence[Tensor], batch: Batch) -> Sequence[str]:
        """Names of the images whose own loss is not finite, of all images where it always is."""
        finite = torch.isfinite(supervise(maps, batch.targets, self.loss)).tolist()
        return [name for name, good in zip(batch.names, finite, strict=True) if not good] or batch.names


def network_options(cfg: CfgNode) -> dict:
    """What ISTD.NETWORK and ISTD.INPUT.CHANNELS ask of `build_network` beside its name and its first bias."""
    node = cfg.ISTD.NETWORK
    chosen = {
        "norm": node.NORM or None,
        "momentum": node.MOMENTUM if node.MOMENTUM >= 0 else None,
        "blocks": node.BLOCKS or None,
    }
    return {"in_channels": cfg.ISTD.INPUT.CHANNELS} | {name: v for name, v in chosen.items() if v is not None}


def network_from_config(cfg: CfgNode) -> Network:
    """The network that ISTD.NETWORK and ISTD.INPUT.CHANNELS describe, with fresh weights."""
    node, options = cfg.ISTD.NETWORK, network_options(cfg)
    try:
        return build_network(node.NAME, output_bias=node.OUTPUT_BIAS or None, **options)
    except TypeError as error:
        refused = [name.upper() for name in options if f"'{name}'" in str(error)]
        raise ValueError(f"{node.NAME} has no option ISTD.NETWORK.{', '.join(refused)}: leave it out.") from error


def _accept_plain_network(module: PointSupervisedISTD, state_dict: dict, prefix: str, *_) -> None:
    """Let the file of one network (`istd.checkpoints.save_network`) be MODEL.WEIGHTS, and fill averages it lacks."""
    parts = tuple(f"{prefix}{name}." for name in ("network", "scam", "average"))
    if not any(key.startswith(parts) for key in state_dict):
        for key in list(state_dict):
            state_dict[f"{parts[0]}{key.removeprefix(prefix)}"] = state_dict.pop(key)
    if module.average is not None and not any(key.startswith(parts[2]) for key in state_dict):
        # The averages answer in eval mode: without this they would answer with their first, random weights.
        found = [key for key in state_dict if key.startswith(parts[:2])]
        state_dict.update({f"{parts[2]}{key.removeprefix(prefix)}": state_dict[key] for key in found})
