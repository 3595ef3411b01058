"""Pseudo-labels in TensorBoard: overlays while training, and their quality on annotated images."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.structures import Instances
from detectron2.utils import comm

from s4m.data.evaluation_loaders import build_annotated_loader
from s4m.evaluation.pseudo_label_quality import draw_overlay, evaluate_pseudo_labels
from s4m.evaluation.reliability import Reliability, draw_reliability, expected_calibration_error
from s4m.modeling.teacher_student import TeacherStudent
from s4m.pseudo_labels.record import ImageRecord


def overlay(record: ImageRecord, class_names: list[str], input_format: str) -> np.ndarray:
    """The teacher's masks beside the refined ones: (3, H, W') uint8 RGB."""
    image = record.image.cpu().permute(1, 2, 0).numpy()
    image = image[:, :, ::-1] if input_format == "BGR" else image
    picture = draw_overlay(
        image, record.teacher_masks, record.masks, record.classes, class_names=class_names, scores=record.scores
    )
    return picture.transpose(2, 0, 1)


class PseudoLabelOverlay(HookBase):
    """Shows one unlabeled image with its pseudo-labels, before and after SAM, every `period` iterations."""

    def __init__(self, cfg: CfgNode, model: TeacherStudent):
        """
        Args:
            cfg: S4M.LOG_PERIOD, INPUT.FORMAT and DATASETS.TRAIN are read.
            model: the one that trains.
        """
        self._period, self._format, self._model = cfg.S4M.LOG_PERIOD, cfg.INPUT.FORMAT, model
        self._class_names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", [])

    def after_step(self) -> None:
        """Put the overlay."""
        record = self._model.last_record
        # Other processes write no pictures, so theirs would pile up in the storage.
        if record is None or self._period <= 0 or self.trainer.iter % self._period or not comm.is_main_process():
            return
        for image in record.images:
            if image.selected:
                picture = overlay(image, self._class_names, self._format)
                self.trainer.storage.put_image("pseudo-labels (left teacher, right refined)", picture)
                return


class PseudoLabelQualityHook(HookBase):
    """Measures precision, recall and mean IoU of the teacher's pseudo-labels, before and after SAM, on test images.

    Runs when evaluation does, on the first `S4M.QUALITY_IMAGES` images of the first test data set, shared over the
    processes and seen as `S4M.QUALITY_VIEW` says.
    """

    def __init__(self, cfg: CfgNode, model: TeacherStudent):
        """
        Args:
            cfg: complete configuration.
            model: the one that trains.
        """
        self._cfg, self._model = cfg, model

    def after_step(self) -> None:
        """Measure at each evaluation."""
        done = self.trainer.iter + 1
        if done % self._cfg.TEST.EVAL_PERIOD == 0 or done == self.trainer.max_iter:
            self.measure()

    def measure(self) -> dict[str, float]:
        """Measure now; the figures go to the event storage as `pseudo_label_quality/...`."""
        name = self._cfg.DATASETS.TEST[0]
        loader = build_annotated_loader(self._cfg, name)  # loading the set fills its metadata
        class_names = MetadataCatalog.get(name).thing_classes
        reliability = None if self._model.calibration is None else Reliability()
        figures, example = evaluate_pseudo_labels(
            self._pairs(loader),
            self._model.labeler,
            self._model.segmenter,
            class_names,
            prefix="pseudo_label_quality/",
            reliability=reliability,
        )
        if reliability is not None:
            figures.update(self._log_reliability(reliability))
        self.trainer.storage.put_scalars(**figures, smoothing_hint=False)
        if example is not None and comm.is_main_process():
            picture = overlay(example, class_names, self._cfg.INPUT.FORMAT)
            self.trainer.storage.put_image("pseudo-labels of a test image (left teacher, right refined)", picture)
        return figures

    def _log_reliability(self, reliability: Reliability) -> dict[str, float]:
        """The ECE of score and confidence, and their diagram beside it in the event storage."""
        sums = reliability.gather()
        if comm.is_main_process():
            picture = draw_reliability(sums).transpose(2, 0, 1)
            self.trainer.storage.put_image("reliability of pseudo-labels of test images", picture)
        return {
            f"pseudo_label_quality/ece/{name.replace(' ', '_')}": expected_calibration_error(rows)
            for name, rows in sums.items()
        }

    def _pairs(self, loader: Iterable[list[dict]]) -> Iterator[tuple[dict, Instances]]:
        share = self._cfg.S4M.QUALITY_IMAGES // comm.get_world_size()
        for entry in islice((entry for batch in loader for entry in batch), max(share, 1)):
            predictions = self._model.teacher.predict([entry], self._model.labeler.min_score)[0]
            yield entry, predictions
