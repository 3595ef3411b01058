"""S4MTrainer is Detectron2's DefaultTrainer with the two-stream loader, the teacher and the evaluation of both."""

import os
import re
from collections import OrderedDict

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.utils import comm

from d2kit.hooks import BestCheckpointer
from d2kit.trainer import ResumableTrainer, unwrap_ddp
from s4m.data.classes import training_classes
from s4m.data.evaluation_loaders import build_test_loader
from s4m.data.two_stream import TwoStreamLoader, build_two_stream_loader
from s4m.engine.cached_source import refined_images, use_cache
from s4m.engine.hooks import EvaluationCatchUp, MeanTeacher
from s4m.engine.optimizer import build_lr_scheduler, build_optimizer
from s4m.engine.quality import PseudoLabelOverlay, PseudoLabelQualityHook
from s4m.engine.report import REPORT_PARTS
from s4m.engine.weights import TeacherStudentCheckpointer, load_teacher
from s4m.evaluation.build import build_evaluator
from s4m.modeling.teacher_student import TeacherStudent

METRICS = re.compile(r"(bbox|segm|boundary)/AP(50|75|s|m|l|-.+)?|voc/APr(50|70|_vol)(-.+)?")


def _position(hooks: list[HookBase], hook_class: type[HookBase]) -> int:
    return next(i for i, hook in enumerate(hooks) if isinstance(hook, hook_class))


def best_metric(cfg: CfgNode) -> str:
    """Return the full name of the metric that S4M.BEST_METRIC names; of several test sets the first one counts.

    Raises:
        ValueError: no evaluator gives such a metric.
    """
    metric, sets = cfg.S4M.BEST_METRIC, cfg.DATASETS.TEST
    named = next((name for name in sets if metric.startswith(f"{name}/")), sets[0])
    metric = metric.removeprefix(f"{named}/")
    if not METRICS.fullmatch(metric):
        raise ValueError(
            f"S4M.BEST_METRIC is '{metric}', but the metrics are bbox, segm or boundary with /AP, /AP50, /AP75, /APs, "
            "/APm, /APl or /AP-CLASS, and of VOC voc/APr50, voc/APr70 and voc/APr_vol."
        )
    return "/".join([cfg.S4M.TEST.NETWORK, *([named] if len(sets) > 1 else []), metric])


class S4MTrainer(ResumableTrainer):
    """Trains a `TeacherStudent`; everything of Detectron2's DefaultTrainer holds."""

    checkpointer_class = TeacherStudentCheckpointer
    report_parts = REPORT_PARTS
    # These functions replace DefaultTrainer's class methods of the same names.
    build_optimizer = staticmethod(build_optimizer)
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_test_loader = staticmethod(build_test_loader)
    build_evaluator = staticmethod(build_evaluator)

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: complete, frozen and scaled configuration (`s4m.engine.schedule.scale_schedule`).
        """
        super().__init__(cfg)
        _ = self.network.segmenter  # It is built now, so that a missing SAM is an error before training.
        if self.network.teacher is not None:
            use_cache(cfg, self.network, refined_images(cfg, self._trainer.data_loader))

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TwoStreamLoader:
        """Build the two-stream loader.

        Raises:
            ValueError: the network does not have the classes of the labeled sets.
        """
        loader = build_two_stream_loader(cfg)
        name = cfg.DATASETS.TRAIN[0]  # The loader has checked that all sets have the same classes.
        classes = MetadataCatalog.get(name).get("thing_classes")
        count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if classes is not None and len(classes) != count:
            raise ValueError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {count}, but '{name}' of DATASETS.TRAIN has {len(classes)} classes."
            )
        return loader

    def build_hooks(self) -> list[HookBase]:
        """Build Detectron2's hooks and those of S4M.

        The teacher is updated before checkpoints are written. After an evaluation the best checkpoint is kept and
        pseudo-labels are measured; a resume makes up an evaluation that was cut off.
        """
        cfg = self.cfg
        teacher = self.network.teacher
        hooks = super().build_hooks()
        if teacher is not None:
            start = _position(hooks, d2_hooks.LRScheduler) + 1
            mean_teacher = MeanTeacher(cfg.S4M.TEACHER.EMA_DECAY, cfg.S4M.TEACHER.BURN_IN)
            hooks[start:start] = [mean_teacher, PseudoLabelOverlay(cfg, self.network)]
        if cfg.TEST.EVAL_PERIOD <= 0 or len(cfg.DATASETS.TEST) == 0:
            return hooks
        after_evaluation = []
        if comm.is_main_process():
            after_evaluation.append(BestCheckpointer(cfg.TEST.EVAL_PERIOD, self.checkpointer, best_metric(cfg)))
        if teacher is not None and cfg.S4M.QUALITY_IMAGES > 0:
            after_evaluation.append(PseudoLabelQualityHook(cfg, self.network))
        start = _position(hooks, d2_hooks.EvalHook)
        hooks[start + 1 : start + 1] = after_evaluation
        return [*hooks, EvaluationCatchUp(cfg.TEST.EVAL_PERIOD, cfg.OUTPUT_DIR, hooks[start:])]

    def state_dict(self) -> dict:
        """Return the state of `ResumableTrainer` with the names of the classes, which a deployed network tells."""
        return {**super().state_dict(), "classes": training_classes(self.cfg)}

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume, or start from `MODEL.WEIGHTS` and `S4M.TEACHER.WEIGHTS`."""
        super().resume_or_load(resume=resume)
        if not (resume and self.checkpointer.has_checkpoint()):
            load_teacher(self.cfg, self.network)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators=None) -> OrderedDict:
        """Evaluate the student and, if there is one, the teacher, whose files go to folders of their names.

        Returns:
            {"student": results, "teacher": results} with Detectron2's results, which are keyed by data set if there
            are several sets.
        """
        model = unwrap_ddp(model)
        if not isinstance(model, TeacherStudent):
            return super().test(cfg, model, evaluators)
        results = OrderedDict()
        for name, network in (("student", model.student), ("teacher", model.teacher)):
            if network is not None:
                network_cfg = cfg.clone()
                network_cfg.defrost()
                network_cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, name)
                results[name] = super().test(network_cfg, network, evaluators)
        return results
