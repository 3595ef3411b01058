"""Detectron2 evaluator of ISTD networks: student and teacher, by masks or by points, by target characteristic."""

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from d2kit.files import atomic_write
from istd.evaluation.ir_metrics import IRMetrics
from istd.evaluation.point_metrics import PointMetrics

OUTPUTS = {"istd": "probability", "istd_teacher": "teacher_probability"}


class ISTDEvaluator(DatasetEvaluator):
    """Scores probability maps at the images' own size.

    Inputs are dicts with `file_name` and either `mask` (H, W), which gives `IRMetrics`, or only `points` (N, 2) x, y,
    which gives `PointMetrics`; an optional `characteristic` (a word such as "salient", or several in a list) splits
    the metrics. Outputs are dicts with `probability` (H, W) in [0, 1] of the student and, where the model gives one,
    `teacher_probability`.

    Results: {"istd": {"IoU", "nIoU", "Pd", "Fa", "AUC", "IoU-salient", ...}, "istd_teacher": ...}, and for images
    without masks {"istd_points": {"F1", "Pd", "Fa", "false_regions", ...}, "istd_teacher_points": ...}. `images` is the
    number of images behind each; a set that masks score only in part is named in a warning, once. All values are
    scalars; ROC curves and each image's counts go to `output_dir`/<task>.json.

    Args:
        output_dir: folder of the json files; empty: none are written.
        threshold, distance, empty, roc_bins: see `IRMetrics`.
        use_masks: False scores by points even where there are masks, as a model is selected without them.
        outputs: task name -> key of the outputs.
    """

    def __init__(
        self,
        output_dir: str = "",
        *,
        threshold: float = 0.5,
        distance: float = 3.0,
        empty: str = "zero",
        roc_bins: int = 256,
        use_masks: bool = True,
        outputs: Mapping[str, str] = OUTPUTS,
    ):
        self.output_dir = output_dir
        self.mask_options = {"threshold": threshold, "distance": distance, "empty": empty, "roc_bins": roc_bins}
        self.point_options = {"threshold": threshold, "distance": distance}
        self.use_masks = use_masks
        self.outputs = dict(outputs)
        self.reset()

    def reset(self) -> None:
        # Metrics by (task, characteristic), "" being the whole set; file names in the order of the task's scores.
        self._metrics: dict[tuple[str, str], IRMetrics | PointMetrics] = {}
        self._names: dict[str, list[str]] = {}

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Add a batch.

        Raises:
            ValueError: names the image when it has neither mask nor points, when sizes differ or a map is not a
                probability.
        """
        for image, output in zip(inputs, outputs, strict=True):
            name = str(image.get("file_name", image.get("image_id", "image")))
            for task, key in self.outputs.items():
                if key in output:
                    try:
                        self._add(task, image, _array(output[key]), name)
                    except ValueError as error:
                        raise ValueError(f"{name}: {error}") from error

    def _add(self, task: str, image: dict, probability: np.ndarray, name: str) -> None:
        if self.use_masks and image.get("mask") is not None:
            kind, options, truth = IRMetrics, self.mask_options, _array(image["mask"])
        elif image.get("points") is not None:
            task, kind, options, truth = f"{task}_points", PointMetrics, self.point_options, _array(image["points"])
        else:
            raise ValueError("it can not be scored, having neither a mask nor points.")
        words = image.get("characteristic") or []
        scored = kind(**options)
        scored.update(probability, truth)
        for split in ("", *([words] if isinstance(words, str) else words)):
            self._metrics.setdefault((task, split), kind(**options)).merge([scored])
        self._names.setdefault(task, []).append(name)

    def evaluate(self) -> OrderedDict:
        """Metrics over all processes, on the main one; an empty dict elsewhere and where nothing was processed."""
        gathered = comm.gather((self._metrics, self._names))
        if not comm.is_main_process():
            return OrderedDict()
        metrics, names = {}, {}
        for part_metrics, part_names in gathered:
            for key, value in part_metrics.items():
                metrics[key] = metrics[key].merge([value]) if key in metrics else value
            for task, part in part_names.items():
                names[task] = names.get(task, []) + part
        self._warn_of_parts(names)
        results = OrderedDict()
        for task in self._tasks(names):
            splits = sorted(split for known, split in metrics if known == task)
            computed = {split: metrics[task, split].compute() for split in splits}
            results[task] = {
                key if not split else f"{key}-{split}": value
                for split, values in computed.items()
                for key, value in [*values.items(), ("images", len(metrics[task, split].scores))]
                if key != "ROC"
            }
            if self.output_dir:
                self._write(task, computed, metrics[task, ""].scores, names[task])
        return results

    def _tasks(self, names: Mapping[str, list[str]]) -> list[str]:
        order = [task for known in self.outputs for task in (known, f"{known}_points")]
        return [task for task in order if task in names]

    def _warn_of_parts(self, names: Mapping[str, list[str]]) -> None:
        for task in self.outputs:
            masks, points = names.get(task, []), names.get(f"{task}_points", [])
            if masks and points:
                log_first_n(
                    logging.WARNING,
                    f"'{task}' scores {len(masks)} of {len(masks) + len(points)} images: the other {len(points)}, "
                    f"{min(points)} for one, have no mask and are in '{task}_points'.",
                    name=__name__,
                    key="message",
                )

    def _write(self, task: str, computed: dict, scores: list, names: list[str]) -> None:
        images = [{"file_name": name} | vars(score) for name, score in zip(names, scores, strict=True)]
        document = {"metrics": {split or "all": values for split, values in computed.items()}, "images": images}
        with atomic_write(Path(self.output_dir, f"{task}.json"), "w") as file:
            json.dump(_plain(document), file)


def _array(value: object) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _plain(value: object) -> object:
    """The document with null for what json has no number for."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
