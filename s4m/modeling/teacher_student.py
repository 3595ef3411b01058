"""The teacher-student meta-architecture of S4M (arXiv 2504.05301)."""

import logging
from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import nn

from d2kit.ema import update_ema
from d2kit.finite import require_finite_losses
from d2kit.ranges import check_values
from d2kit.rng import derive_seed
from s4m.modeling.structure import StructuralDistillation
from s4m.modeling.student import Student
from s4m.pseudo_labels.pipeline import PseudoLabeler, PseudoLabelRecord
from s4m.pseudo_labels.record import match_counts, match_rates
from s4m.pseudo_labels.refinement import Source
from s4m.pseudo_labels.strong_augmentation import strong_augment
from s4m.ranges import S4M_VALUES
from s4m.sam import PromptableSegmenter, build_segmenter

logger = logging.getLogger(__name__)

_LOGGED_BATCHES = 20  # A logged rate covers this many batches, which is the period of Detectron2's writers.


def log_idle_switches(cfg: CfgNode) -> None:
    """Log which switches wait for unlabeled images (INFO), and boundary consistency without SAM (WARNING)."""
    if len(cfg.DATASETS.UNLABELED) == 0:
        names = ("PR", "ARP", "BOUNDARY", "CALIBRATION", "MATCHING")
        waiting = ", ".join(f"S4M.{name}" for name in names if cfg.S4M[name].ENABLED)
        if waiting:
            logger.info("%s: waiting for unlabeled images, without effect until DATASETS.UNLABELED.", waiting)
    elif cfg.S4M.BOUNDARY.ENABLED and not cfg.S4M.PR.ENABLED:
        logger.warning(
            "S4M.BOUNDARY without S4M.PR knows no certainty of SAM: its edge term is 0, and all cells weigh the same."
        )


@META_ARCH_REGISTRY.register()
class TeacherStudent(nn.Module):
    """A student that learns from labels, from SAM's structure and from the pseudo-labels of its own moving average.

    Training takes `{"labeled": [...], "unlabeled": [...]}` (a plain list counts as labeled) of Detectron2's
    dictionaries and returns a dictionary of losses. In eval mode the network that `S4M.TEST.NETWORK` names answers. The
    teacher exists when there are unlabeled data sets. The frozen segmenter is no submodule: it is in no checkpoint,
    optimizer or DDP bucket.
    """

    @configurable
    def __init__(
        self,
        *,
        student: Student,
        teacher: Student | None,
        labeler: PseudoLabeler | None,
        structure: StructuralDistillation | None,
        make_segmenter: Callable[[], PromptableSegmenter] | None,
        unsup_weight: float,
        evaluate: str,
        strong_labeled: dict[str, Any] | None = None,
        teacher_weights: str = "",
    ):
        """
        Args:
            student: the network that learns.
            teacher: another instance of it, or None for supervised training.
            labeler: it turns the teacher's predictions into targets; a teacher needs it.
            structure: the loss of structural distillation, or None.
            make_segmenter: a function that builds SAM, called at its first use; None where nothing needs SAM.
            unsup_weight: weight of the losses on pseudo-labels.
            evaluate: "student" or "teacher", the network that answers in eval mode.
            strong_labeled: arguments of `strong_augment` for labeled images; None leaves these images as they are.
            teacher_weights: file that `s4m.engine.weights.load_teacher` must read before training begins.
        """
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.labeler = labeler
        self.calibration = None if labeler is None else labeler.calibration  # As a submodule it is saved.
        self.structure = structure
        self._make_segmenter = make_segmenter
        self.unsup_weight = unsup_weight
        self.evaluate = evaluate
        self.strong_labeled = strong_labeled
        self.awaited_teacher = "" if teacher is None else teacher_weights  # It is empty once they are loaded.
        self.has_loaded_teacher = False  # It is True once a checkpoint has brought a teacher.
        self.last_record: PseudoLabelRecord | None = None  # It is of the latest training step.
        self._match_counts: deque[torch.Tensor] = deque(maxlen=_LOGGED_BATCHES)
        self.sam_source: Callable[[list[dict]], Source] | None = None  # None: SAM sees the augmented views.
        if teacher is not None:
            teacher.requires_grad_(False).eval()
            self.reset_teacher()
        self._register_load_state_dict_pre_hook(self._before_load, with_module=True)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read DATASETS.UNLABELED, MODEL.DEVICE and everything under S4M."""
        semi = len(cfg.DATASETS.UNLABELED) > 0
        check_values(cfg, S4M_VALUES)
        network = cfg.S4M.TEST.NETWORK
        if network == "teacher" and not semi:
            raise ValueError("S4M.TEST.NETWORK is teacher, but without DATASETS.UNLABELED there is no teacher.")
        needs_sam = cfg.S4M.SD.ENABLED or (semi and cfg.S4M.PR.ENABLED)
        if needs_sam and not cfg.S4M.SAM.NAME:
            raise ValueError("S4M.SD.ENABLED and S4M.PR.ENABLED need a segmenter: set S4M.SAM.NAME.")
        build = META_ARCH_REGISTRY.get(cfg.S4M.STUDENT) if cfg.S4M.STUDENT in META_ARCH_REGISTRY else object
        if not issubclass(build, Student):
            raise ValueError(f"S4M.STUDENT must name a registered student such as S4MRCNN, not '{cfg.S4M.STUDENT}'.")
        log_idle_switches(cfg)
        sam = cfg.S4M.SAM
        make_segmenter = partial(
            build_segmenter, sam.NAME, sam.CHECKPOINT, cfg.MODEL.DEVICE, sam.DECODE_CHUNK, sam.ENCODE_BATCH
        )
        return {
            "student": build(cfg),
            "teacher": build(cfg) if semi else None,
            "labeler": PseudoLabeler(cfg) if semi else None,
            "structure": StructuralDistillation(cfg) if cfg.S4M.SD.ENABLED else None,
            "make_segmenter": make_segmenter if needs_sam else None,
            "unsup_weight": cfg.S4M.UNSUP_WEIGHT,
            "evaluate": network,
            "strong_labeled": {"bgr": cfg.INPUT.FORMAT == "BGR"} if cfg.S4M.STRONG.LABELED else None,
            "teacher_weights": cfg.S4M.TEACHER.WEIGHTS,
        }

    @property
    def device(self) -> torch.device:
        """The device of the student."""
        return next(self.student.parameters()).device

    @cached_property
    def segmenter(self) -> PromptableSegmenter | None:
        """The frozen SAM, built at the first use; None where the configuration needs none."""
        return None if self._make_segmenter is None else self._make_segmenter()

    def train(self, mode: bool = True) -> "TeacherStudent":
        """Set the mode of the student; the teacher always stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def reset_teacher(self) -> None:
        """Set the teacher's weights to the student's."""
        update_ema(self.teacher, self.student, decay=0.0)

    def forward(self, batch: dict[str, list[dict]] | list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Return losses in training and Detectron2's outputs in eval mode.

        Raises:
            ValueError: a model with a teacher gets a list of labeled images alone in training.
        """
        if not self.training:
            return (self.teacher if self.evaluate == "teacher" else self.student)(batch)
        if isinstance(batch, list) and self.teacher is not None:
            raise ValueError(
                "DATASETS.UNLABELED is set, but the loader gives a list of labeled images without unlabeled ones: "
                "build the loader by s4m.data.two_stream.build_two_stream_loader and register the hook "
                "s4m.engine.hooks.MeanTeacher, as S4MTrainer does."
            )
        labeled, unlabeled = (batch, []) if isinstance(batch, list) else (batch["labeled"], batch["unlabeled"])
        losses = self._learn_from_labels(labeled) if labeled else {}
        if unlabeled and self.teacher is not None:
            if self.awaited_teacher:
                raise RuntimeError(
                    f"The teacher of S4M.TEACHER.WEIGHTS '{self.awaited_teacher}' was never loaded: call "
                    "s4m.engine.weights.load_teacher after MODEL.WEIGHTS are loaded, as S4MTrainer does."
                )
            if self.calibration is not None and labeled and self.calibration.due():
                self.calibrate(labeled)
            losses.update(self._learn_from_teacher(unlabeled))
        require_finite_losses(losses, lambda: [str(x.get("file_name", "?")) for x in [*labeled, *unlabeled]])
        return losses

    def _learn_from_labels(self, labeled: list[dict]) -> dict[str, torch.Tensor]:
        views = labeled if self.strong_labeled is None else [self._strong(entry) for entry in labeled]
        losses, features, padded_size = self.student.losses_and_features(views)
        if self.structure is not None:
            losses["loss_structure"] = self.structure(labeled, features, padded_size, self.segmenter)
        return losses

    def _strong(self, entry: dict) -> dict:
        generator = torch.Generator().manual_seed(derive_seed(entry["seed"], "strong")) if "seed" in entry else None
        return {**entry, "image": strong_augment(entry["image"], generator=generator, **self.strong_labeled)}

    def _learn_from_teacher(self, unlabeled: list[dict]) -> dict[str, torch.Tensor]:
        self.last_record = None  # Otherwise the masks of two batches would be in memory.
        targets, self.last_record = self.pseudo_label(unlabeled)
        if has_event_storage():
            get_event_storage().put_scalars(**self.last_record.scalars())
            self._log_matching(self.last_record)
            if self.calibration is not None:
                get_event_storage().put_scalars(**self.calibration.scalars())
        losses, _, _ = self.student.losses_and_features(targets)
        return {f"{key}_pseudo": self.unsup_weight * value for key, value in losses.items()}

    def _log_matching(self, record: PseudoLabelRecord) -> None:
        """Log rates over the last batches; the writers' medians over single batches would hide rare outcomes."""
        counts = match_counts(record.images)
        if counts is not None:
            self._match_counts.append(counts)
            rates = match_rates(torch.stack(list(self._match_counts)).sum(dim=0), "pseudo_labels/match/")
            get_event_storage().put_scalars(**rates, smoothing_hint=False)

    @torch.no_grad()
    def pseudo_label(self, weak: list[dict]) -> tuple[list[dict], PseudoLabelRecord]:
        """Turn weak views into training dictionaries for the student, and record what became of the pseudo-labels.

        The teacher's predictions are selected, refined by SAM, mixed and strongly augmented.

        Args:
            weak: dictionaries of the unlabeled mapper.
        """
        predictions, source = self.predict_as_teacher(weak)
        if self.training and self.calibration is not None:
            self.calibration.observe(predictions)
        return self.labeler(weak, predictions, self.segmenter, source)

    @torch.no_grad()
    def calibrate(self, labeled: list[dict]) -> None:
        """Fit the confidence of pseudo-labels to the IoU that pseudo-labels of labeled images reach.

        Args:
            labeled: dictionaries of the labeled mapper, with `crowds` where there are any.
        """
        weak = [{key: value for key, value in entry.items() if key != "instances"} for entry in labeled]
        predictions, source = self.predict_as_teacher(weak)
        labels = self.labeler.refined(weak, predictions, self.segmenter, source)
        truths = [entry["instances"] for entry in labeled]
        crowds = [entry.get("crowds") for entry in labeled]
        self.calibration.learn(labels, truths, crowds)

    def predict_as_teacher(self, weak: list[dict]) -> tuple[list[Instances], Source | None]:
        """Return the teacher's predictions on weak views, and the embeddings of `sam_source` if there is one."""
        predictions = self.teacher.predict(weak, self.labeler.min_score)
        return predictions, None if self.sam_source is None else self.sam_source(weak)

    @staticmethod
    def _before_load(model: "TeacherStudent", state: dict, prefix: str, *_) -> None:
        """Let the weights of a plain student load into the student, and note that a checkpoint brings the teacher."""
        if any(key.startswith(f"{prefix}teacher.") for key in state):
            model.awaited_teacher = ""
            model.has_loaded_teacher = True
        own = (f"{prefix}student.", f"{prefix}teacher.")
        if not any(key.startswith(own) for key in state):
            for key in [k for k in state if k.startswith(prefix)]:
                state[f"{prefix}student.{key[len(prefix) :]}"] = state.pop(key)
