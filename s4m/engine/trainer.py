"""DefaultTrainer with the two-stream loader, the teacher and their evaluation."""

import os
from collections import OrderedDict

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from d2kit.hooks import BestCheckpointer
from d2kit.trainer import ResumableTrainer, unwrap_ddp
from s4m.data.evaluation_loaders import build_test_loader
from s4m.data.two_stream import build_two_stream_loader
from s4m.engine.cached_source import CachedSource
from s4m.engine.hooks import EvaluationCatchUp, MeanTeacher
from s4m.engine.optimizer import build_lr_scheduler, build_optimizer
from s4m.engine.quality import PseudoLabelOverlay, PseudoLabelQualityHook
from s4m.engine.weights import TeacherStudentCheckpointer, load_teacher
from s4m.evaluation.build import build_evaluator
from s4m.modeling.teacher_student import TeacherStudent


def _insert_after(hooks: list, kind: type, *new: HookBase) -> None:
    """Insert hooks behind the first one of a kind."""
    position = next(i for i, hook in enumerate(hooks) if isinstance(hook, kind)) + 1
    hooks[position:position] = new


def _with_output(cfg: CfgNode, name: str) -> CfgNode:
    """The configuration with a folder of its own for what an evaluation writes."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, name)
    cfg.freeze()
    return cfg


def check_classes(cfg: CfgNode) -> None:
    """Raise ValueError if the network does not have the classes of the labeled sets."""
    for name in cfg.DATASETS.TRAIN:
        names, count = MetadataCatalog.get(name).get("thing_classes"), cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if names is not None and len(names) != count:
            raise ValueError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {count}, but '{name}' of DATASETS.TRAIN has {len(names)} classes."
            )


class S4MTrainer(ResumableTrainer):
    """Trains a `TeacherStudent`; everything of Detectron2's DefaultTrainer holds."""

    checkpointer_class = TeacherStudentCheckpointer

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: complete, frozen and scaled (`s4m.engine.schedule.scale_schedule`).
        """
        super().__init__(cfg)
        segmenter = self.network.segmenter  # built now, so that a missing SAM is told before the first iteration
        if cfg.S4M.SAM.CACHE and cfg.S4M.PR.ENABLED and self.network.teacher is not None:
            loader = self._trainer.data_loader
            streams = [loader.unlabeled, loader.labeled] if cfg.S4M.CALIBRATION.ENABLED else [loader.unlabeled]
            self.network.sam_source = CachedSource(cfg, segmenter, sum(len(stream.dataset) for stream in streams))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """What `SOLVER.OPTIMIZER` names; see `s4m.engine.optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer):
        """What `SOLVER.LR_SCHEDULER_NAME` names; see `s4m.engine.optimizer`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """Labeled and unlabeled images side by side."""
        loader = build_two_stream_loader(cfg)
        check_classes(cfg)
        return loader

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Detectron2's test loader, which names a file that cannot be read."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """COCO mask and box AP, or what fits the data set; see `s4m.evaluation.build`."""
        return build_evaluator(cfg, dataset_name)

    def build_hooks(self) -> list:
        """The common hooks, EMA before checkpoints, pseudo-label quality and the best checkpoint after evaluation.

        A resume makes up the evaluation that was cut off.
        """
        hooks, cfg, network = super().build_hooks(), self.cfg, self.network
        evaluates = cfg.TEST.EVAL_PERIOD > 0 and len(cfg.DATASETS.TEST) > 0
        if network.teacher is not None:
            teacher = MeanTeacher(cfg.S4M.TEACHER.EMA_DECAY, cfg.S4M.TEACHER.BURN_IN)
            _insert_after(hooks, d2_hooks.LRScheduler, teacher, PseudoLabelOverlay(cfg, network))
            if evaluates and cfg.S4M.QUALITY_IMAGES > 0:
                _insert_after(hooks, d2_hooks.EvalHook, PseudoLabelQualityHook(cfg, network))
        if evaluates and comm.is_main_process():
            metric = f"{cfg.S4M.TEST.NETWORK}/{cfg.S4M.BEST_METRIC}"
            best = BestCheckpointer(cfg.TEST.EVAL_PERIOD, self.checkpointer, metric)
            _insert_after(hooks, d2_hooks.EvalHook, best)
        if evaluates:
            kinds = (d2_hooks.EvalHook, BestCheckpointer, PseudoLabelQualityHook, d2_hooks.PeriodicWriter)
            at_evaluation = [hook for hook in hooks if isinstance(hook, kinds)]
            hooks.append(EvaluationCatchUp(cfg.TEST.EVAL_PERIOD, cfg.OUTPUT_DIR, at_evaluation))
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume, or start from `MODEL.WEIGHTS` and `S4M.TEACHER.WEIGHTS`."""
        super().resume_or_load(resume=resume)
        if not (resume and self.checkpointer.has_checkpoint()):
            load_teacher(self.cfg, self.network)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators=None) -> OrderedDict:
        """Evaluate the student and, where there is one, the teacher.

        Returns:
            {"student": results, "teacher": results}, where results are Detectron2's (keyed by data set if there are
            several).
        """
        model = unwrap_ddp(model)
        if not isinstance(model, TeacherStudent):
            return super().test(cfg, model, evaluators)
        results = OrderedDict()
        for name in ("student", "teacher"):
            network = getattr(model, name)
            if network is not None:
                results[name] = super().test(_with_output(cfg, name), network, evaluators)
        return results
