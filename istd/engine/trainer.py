"""A DefaultTrainer for point-supervised ISTD: the pool's loader, the hooks, the evaluation and one final test."""

import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import hooks as d2_hooks
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping, reduce_param_groups
from detectron2.utils import comm

from d2kit.files import atomic_write
from d2kit.hooks import BestCheckpointer
from d2kit.trainer import ResumableTrainer, unwrap_ddp
from istd.data.check import check_before_training
from istd.engine.data import TrainingData, build_test_loader, load_datasets
from istd.engine.hooks import FinalTest, GateLog, LabelEvolution, OuterStep, WeightAverage
from istd.engine.processes import share_statistics
from istd.engine.report import REPORT_PARTS
from istd.engine.schedule import EpochClock, epoch_iterations, in_iterations
from istd.evaluation.evaluator import ISTDEvaluator

logger = logging.getLogger(__name__)

RESULTS = "results.json"
BEST = "model_best.pth"


class ISTDTrainer(ResumableTrainer):
    """Trains a `PointSupervisedISTD`; everything of Detectron2's DefaultTrainer holds.

    While training, student and teacher are scored on DATASETS.VALIDATION, which selects the best checkpoint.
    DATASETS.TEST is scored once, at the end, with that checkpoint: OUTPUT_DIR/test/results.json.
    """

    kept_checkpoints = 3
    report_parts = REPORT_PARTS

    def __init__(self, cfg: CfgNode):
        """Check the data sets, and take a frozen configuration, whose ISTD.SCHEDULE is turned into iterations here."""
        if comm.is_main_process():
            check_before_training(cfg)
        self.data = TrainingData(cfg)
        cfg = in_iterations(cfg, len(self.data.train))
        self.clock = EpochClock(epoch_iterations(cfg, len(self.data.train)), cfg.SOLVER.MAX_ITER)
        super().__init__(cfg)

    def build_train_loader(self, cfg: CfgNode):
        """Return the loader of crops of the pool's images."""
        return self.data.train_loader()

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Return AdamW by the SOLVER keys, with ISTD.SCAM.LR as the learning rate of SCAM."""
        groups = get_default_optimizer_params(model, weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM)
        rate = cfg.ISTD.SCAM.LR or cfg.SOLVER.BASE_LR
        if model.scam is not None and rate != cfg.SOLVER.BASE_LR:
            scam = [{"params": [weight], "lr": rate} for weight in model.scam.parameters() if weight.requires_grad]
            groups = reduce_param_groups([*groups, *scam])  # A later item replaces the settings of an earlier one.
        adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return adamw(groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)

    def build_hooks(self) -> list:
        """Return the hooks; epoch hooks, evaluation and their figures in metrics.json precede the checkpoint."""
        last = (d2_hooks.PeriodicWriter, d2_hooks.PeriodicCheckpointer)
        hooks = [hook for hook in super().build_hooks() if not isinstance(hook, d2_hooks.EvalHook)]
        first = [hook for hook in hooks if not isinstance(hook, last)]
        writers, checkpoints = ([hook for hook in hooks if isinstance(hook, kind)] for kind in last)
        return [*first, *self._epoch_hooks(), *self._evaluation_hooks(), *writers, *checkpoints, FinalTest()]

    def _epoch_hooks(self) -> list:
        cfg, model, data, clock = self.cfg, self.network, self.data, self.clock
        hooks = [GateLog(model.scam)] if model.has_teacher else []
        if cfg.ISTD.OUTER.ENABLED:
            hooks.append(OuterStep(cfg, model, data, clock))
        if cfg.ISTD.SCHEDULE.EMA_DECAY > 0:
            hooks.append(WeightAverage(model, cfg.ISTD.SCHEDULE.EMA_DECAY))
        if data.labels is not None:
            hooks.append(LabelEvolution(cfg, model, data, clock))
        return hooks

    def _evaluation_hooks(self) -> list:
        if not self.data.validation:
            return []
        period = self.cfg.TEST.EVAL_PERIOD
        hooks = [d2_hooks.EvalHook(period, self.validate)]
        if comm.is_main_process():
            hooks.append(BestCheckpointer(period, self.checkpointer, self.selection_metric))
        return hooks

    @property
    def selection_metric(self) -> str:
        """The name in the event storage of the validation figure that selects the best checkpoint."""
        node = self.cfg.ISTD.TEST
        if node.SELECT not in ("student", "teacher") or node.SELECT_BY not in ("masks", "points"):
            raise ValueError("ISTD.TEST.SELECT must be student or teacher, and ISTD.TEST.SELECT_BY masks or points.")
        teacher = node.SELECT == "teacher" and node.NETWORK == "both" and self.network.has_teacher
        task = "istd_teacher" if teacher else "istd"
        return f"{task}/IoU" if self._validates_by_masks else f"{task}_points/F1"

    @cached_property
    def _validates_by_masks(self) -> bool:
        if self.cfg.ISTD.TEST.SELECT_BY != "masks":
            return False
        records = self.data.validation
        without = [record["file_name"] for record in records if "mask_file" not in record]
        if not without or len(without) == len(records):
            return not without
        by_points = all(record.get("points") is not None for record in records)
        logger.warning(
            "%d of %d validation images have no mask, %s for one: the best checkpoint is selected by %s.",
            len(without),
            len(records),
            without[0],
            "points" if by_points else "the others, because some have no points either",
        )
        return not by_points

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint, or start from MODEL.WEIGHTS."""
        continues = resume and self.checkpointer.has_checkpoint()
        if not continues and self.data.labels is not None:
            self.data.labels.start()
        super().resume_or_load(resume=resume)
        if not continues:
            self.network.update_average(0.0)

    def restart_data(self, iteration: int) -> None:
        """Restart the training loader at an iteration, after the pseudo-masks or the pool changed."""
        loader = self._trainer.data_loader
        loader.set_start(iteration)
        self._trainer.reset_data_loader(lambda: loader)

    def validate(self) -> OrderedDict:
        """Score student and teacher on the validation images."""
        share_statistics(self.network)
        evaluator = self._evaluator(self.cfg, "validation", self._validates_by_masks)
        return inference_on_dataset(self.network, build_test_loader(self.cfg, self.data.validation), evaluator)

    def final_test(self) -> OrderedDict:
        """Score the test data sets with the best checkpoint, unless a finished run is resumed."""
        path = Path(self.cfg.OUTPUT_DIR, "test", RESULTS)
        if not self.cfg.DATASETS.TEST or (path.is_file() and self.start_iter >= self.max_iter):
            return OrderedDict()
        comm.synchronize()
        best = Path(self.cfg.OUTPUT_DIR, BEST)
        share_statistics(self.network)
        if best.is_file():
            self.checkpointer.load(str(best), checkpointables=[])
        names = list(self.cfg.DATASETS.TEST)
        folders = [f"test{number}" if len(names) > 1 else "test" for number in range(len(names))]
        results = self.test(self.cfg, self.network, [self._evaluator(self.cfg, folder, True) for folder in folders])
        if comm.is_main_process():
            checkpoint = BEST if best.is_file() else "model_final.pth"
            flat = flatten_results_dict(results)
            figures = {key: value if math.isfinite(value) else None for key, value in flat.items()}
            with atomic_write(path, "w") as file:
                json.dump({"checkpoint": checkpoint, "seed": self.cfg.SEED, "results": figures}, file, indent=1)
            for name, scores in results.items():
                logger.info("Test of %s on %s, in %s:", checkpoint, name, path)
                print_csv_format(scores)
        comm.synchronize()
        return results

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Return a loader of the whole images of a data set."""
        return build_test_loader(cfg, load_datasets([dataset_name], "DATASETS.TEST"))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluator of student and teacher, which writes to OUTPUT_DIR/eval/<name of MODEL.WEIGHTS>.

        Only the final test of a training writes to the folder `test`.
        """
        names = list(cfg.DATASETS.TEST)
        number = str(names.index(dataset_name)) if dataset_name in names and len(names) > 1 else ""
        return cls._evaluator(cfg, os.path.join("eval", Path(cfg.MODEL.WEIGHTS).stem or "untrained", number), True)

    @classmethod
    def _evaluator(cls, cfg: CfgNode, folder: str, use_masks: bool) -> ISTDEvaluator:
        node = cfg.ISTD.TEST
        return ISTDEvaluator(
            os.path.join(cfg.OUTPUT_DIR, folder),
            threshold=node.THRESHOLD,
            distance=node.DISTANCE,
            use_masks=use_masks,
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Sequence[DatasetEvaluator] | None = None):
        """Score a model on DATASETS.TEST, by the given evaluators or those of `build_evaluator`.

        Returns:
            {data set: {"istd": {"IoU", "nIoU", "Pd", "Fa", ...}, "istd_teacher": ...}}; empty except on process 0.
        """
        model = unwrap_ddp(model)
        results = OrderedDict()
        for number, name in enumerate(cfg.DATASETS.TEST):
            evaluator = evaluators[number] if evaluators else cls.build_evaluator(cfg, name)
            scores = inference_on_dataset(model, cls.build_test_loader(cfg, name), evaluator)
            if comm.is_main_process():
                results[name] = scores
        return results
