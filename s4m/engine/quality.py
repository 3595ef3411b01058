"""Hooks show pseudo-labels in TensorBoard and measure them on annotated images."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

from s4m.data.evaluation_loaders import build_annotated_loader
from s4m.evaluation.pseudo_label_quality import evaluate_pseudo_labels
from s4m.evaluation.reliability import (
    Reliability,
    draw_reliability,
    expected_calibration_error,
    reliability_scalars,
)
from s4m.modeling.teacher_student import TeacherStudent
from s4m.pseudo_labels.record import ImageRecord


def draw_pseudo_labels(record: ImageRecord, class_names: Sequence[str], image_format: str) -> np.ndarray:
    """Draw an image with the teacher's masks and, at its right, the same image with the refined masks.

    Args:
        record: pseudo-labels of the image.
        class_names: thing classes by contiguous index; if it is empty, the indices are written.
        image_format: cfg.INPUT.FORMAT, the format of the record's image.

    Returns:
        (3, H, 2 * W) uint8 RGB, in which an instance has one color.
    """
    image = convert_image_to_rgb(record.image.permute(1, 2, 0), image_format)
    names = [class_names[index] if class_names else str(index) for index in record.classes.tolist()]
    labels = [f"{name} {score:.2f}" for name, score in zip(names, record.scores.tolist(), strict=True)]
    # Without assigned colors Detectron2 draws them from NumPy's global generator, which training uses.
    colors = np.resize(colormap(rgb=True, maximum=1), (len(labels), 3))
    halves = [
        Visualizer(image).overlay_instances(masks=list(masks.cpu().numpy()), labels=labels, assigned_colors=colors)
        for masks in (record.teacher_masks, record.masks)
    ]
    return np.concatenate([half.get_image() for half in halves], axis=1).transpose(2, 0, 1)


class PseudoLabelOverlay(HookBase):
    """Shows an unlabeled image with its pseudo-labels before and after SAM, once in `S4M.LOG_PERIOD` iterations."""

    def __init__(self, cfg: CfgNode, model: TeacherStudent):
        """
        Args:
            cfg: S4M.LOG_PERIOD, INPUT.FORMAT and DATASETS.TRAIN are read.
            model: the model in training.
        """
        self._period = cfg.S4M.LOG_PERIOD
        self._format = cfg.INPUT.FORMAT
        self._model = model
        self._class_names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", [])

    def after_step(self) -> None:
        """Put the picture of the first image that has a pseudo-label into the event storage."""
        record = self._model.last_record
        # Other processes write no pictures, so theirs would pile up in the storage.
        if record is None or self._period <= 0 or self.trainer.iter % self._period or not comm.is_main_process():
            return
        image = next((image for image in record.images if image.selected), None)
        if image is not None:
            picture = draw_pseudo_labels(image, self._class_names, self._format)
            self.trainer.storage.put_image("pseudo-labels (left teacher, right refined)", picture)


class PseudoLabelQualityHook(HookBase):
    """Measures the teacher's pseudo-labels before and after SAM on test images, at each evaluation.

    The processes share the first `S4M.QUALITY_IMAGES` images of the first test set, in the view of `S4M.QUALITY_VIEW`.
    """

    def __init__(self, cfg: CfgNode, model: TeacherStudent):
        """
        Args:
            cfg: complete configuration.
            model: the model in training.
        """
        self._cfg = cfg
        self._model = model

    def after_step(self) -> None:
        """Measure at each evaluation."""
        done = self.trainer.iter + 1
        if done % self._cfg.TEST.EVAL_PERIOD == 0 or done == self.trainer.max_iter:
            self.measure()

    def measure(self) -> dict[str, float]:
        """Measure now, and return the figures, which go to the event storage as `pseudo_label_quality/...`."""
        name = self._cfg.DATASETS.TEST[0]
        pairs = self._with_predictions(build_annotated_loader(self._cfg, name))
        class_names = MetadataCatalog.get(name).thing_classes  # The loader has filled the metadata.
        reliability = None if self._model.calibration is None else Reliability()
        figures, example = evaluate_pseudo_labels(
            pairs, self._model.labeler, self._model.segmenter, class_names, reliability
        )
        if reliability is not None:
            figures.update(self._log_reliability(reliability))
        figures = {f"pseudo_label_quality/{name}": value for name, value in figures.items()}
        self.trainer.storage.put_scalars(**figures, smoothing_hint=False)
        if example is not None and comm.is_main_process():
            picture = draw_pseudo_labels(example, class_names, self._cfg.INPUT.FORMAT)
            self.trainer.storage.put_image("pseudo-labels of a test image (left teacher, right refined)", picture)
        return figures

    def _log_reliability(self, reliability: Reliability) -> dict[str, float]:
        """Return the ECE of the class score and of the confidence, and put their diagram into the event storage.

        The bins of the diagram become scalars of the storage, so that metrics.json has them.
        """
        sums = reliability.gather()
        if comm.is_main_process():
            picture = draw_reliability(sums).transpose(2, 0, 1)
            self.trainer.storage.put_image("reliability of pseudo-labels of test images", picture)
        bins = {f"pseudo_label_quality/{name}": value for name, value in reliability_scalars(sums).items()}
        self.trainer.storage.put_scalars(**bins, smoothing_hint=False)
        return {f"ece/{name.replace(' ', '_')}": expected_calibration_error(rows) for name, rows in sums.items()}

    def _with_predictions(self, loader: Iterable[list[dict]]) -> Iterator[tuple[dict, Instances]]:
        share = max(self._cfg.S4M.QUALITY_IMAGES // comm.get_world_size(), 1)
        for entry in islice(chain.from_iterable(loader), share):
            yield entry, self._model.teacher.predict([entry], self._model.labeler.min_score)[0]
