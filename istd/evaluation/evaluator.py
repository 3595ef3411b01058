"""A Detectron2 evaluator that scores student and teacher by masks or points, and by target characteristic."""

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from d2kit.files import atomic_write
from istd.evaluation.ir_metrics import IRMetrics
from istd.evaluation.point_metrics import PointMetrics

OUTPUTS = {"istd": "probability", "istd_teacher": "teacher_probability"}  # task: key in the model's outputs


class ISTDEvaluator(DatasetEvaluator):
    """Scores probability maps at the images' own size.

    Inputs are dicts with `file_name` and either `mask` (H, W), which is scored by `IRMetrics`, or only `points` (N, 2)
    x, y, which are scored by `PointMetrics`. An optional `characteristic` (a word such as "salient", or a list) splits
    the metrics. Outputs are dicts with `probability` (H, W) in [0, 1] of the student and optionally
    `teacher_probability`.

    Results are {"istd": {"IoU", "nIoU", "Pd", "Fa", "AUC", "IoU-salient", ...}, "istd_teacher": ...}, and for images
    without masks {"istd_points": {"F1", "Pd", "Fa", "false_regions", ...}, "istd_teacher_points": ...}. `images` is the
    number of scored images. A warning names a data set in which only a part of the images has masks. All values are
    scalars; ROC curves and each image's counts and predicted mask (RLE) are written to `output_dir`/<task>.json.

    Args:
        output_dir: folder of the json files; "" writes none.
        threshold, distance, empty, roc_bins: see `IRMetrics`.
        use_masks: False scores by points even if there are masks, as for model selection without masks.
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
    ):
        self.output_dir = output_dir
        self.mask_options = {"threshold": threshold, "distance": distance, "empty": empty, "roc_bins": roc_bins}
        self.point_options = {"threshold": threshold, "distance": distance}
        self.use_masks = use_masks
        self.reset()

    def reset(self) -> None:
        # The key of the metrics is (task, characteristic), where "" is the whole set. Names are in the scores' order.
        self._metrics: dict[tuple[str, str], IRMetrics | PointMetrics] = {}
        self._images: dict[str, list[dict]] = {}  # name and predicted mask of each image

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Add a batch.

        Raises:
            ValueError: an image has neither mask nor points, sizes differ, or a map is not a probability; the message
                names the image.
        """
        for image, output in zip(inputs, outputs, strict=True):
            name = str(image.get("file_name", image.get("image_id", "image")))
            for task, key in OUTPUTS.items():
                if key in output:
                    try:
                        self._add(task, image, _array(output[key]), name)
                    except ValueError as error:
                        raise ValueError(f"{name}: {error}") from error

    def _add(self, task: str, image: dict, probability: np.ndarray, name: str) -> None:
        if self.use_masks and image.get("mask") is not None:
            new_metrics, truth = partial(IRMetrics, **self.mask_options), image["mask"]
        elif image.get("points") is not None:
            task = f"{task}_points"
            new_metrics, truth = partial(PointMetrics, **self.point_options), image["points"]
        else:
            raise ValueError("it cannot be scored, because it has neither a mask nor points.")
        characteristics = image.get("characteristic") or []
        image_metrics = new_metrics()
        image_metrics.update(probability, _array(truth))
        mask = mask_util.encode(np.asfortranarray(probability > self.mask_options["threshold"], np.uint8))
        prediction = {"size": list(probability.shape), "counts": mask["counts"].decode()}
        for split in ("", *([characteristics] if isinstance(characteristics, str) else characteristics)):
            self._metrics.setdefault((task, split), new_metrics()).merge([image_metrics])
        self._images.setdefault(task, []).append({"file_name": name, "prediction": prediction})

    def evaluate(self) -> OrderedDict:
        """Return the metrics over all processes on the main one; other processes return an empty dict."""
        gathered = comm.gather((self._metrics, self._images))
        if not comm.is_main_process():
            return OrderedDict()
        metrics = {}
        images = {}
        for part_metrics, part_images in gathered:
            for key, value in part_metrics.items():
                metrics[key] = metrics[key].merge([value]) if key in metrics else value
            for task, task_images in part_images.items():
                images[task] = images.get(task, []) + task_images
        self._warn_if_masks_are_missing(images)
        results = OrderedDict()
        for task in self._tasks(images):
            splits = sorted(split for metrics_task, split in metrics if metrics_task == task)
            computed = {split: metrics[task, split].compute() for split in splits}
            results[task] = {
                key if not split else f"{key}-{split}": value
                for split, values in computed.items()
                for key, value in [*values.items(), ("images", len(metrics[task, split].scores))]
                if key != "ROC"
            }
            if self.output_dir:
                self._write(task, computed, metrics[task, ""].scores, images[task])
        return results

    def _tasks(self, images: Mapping[str, list[dict]]) -> list[str]:
        order = [task for output in OUTPUTS for task in (output, f"{output}_points")]
        return [task for task in order if task in images]

    def _warn_if_masks_are_missing(self, images: Mapping[str, list[dict]]) -> None:
        for task in OUTPUTS:
            masks = images.get(task, [])
            points = [image["file_name"] for image in images.get(f"{task}_points", [])]
            if masks and points:
                log_first_n(
                    logging.WARNING,
                    f"'{task}' scores {len(masks)} of {len(masks) + len(points)} images: the other {len(points)}, "
                    f"{min(points)} for one, have no mask and are in '{task}_points'.",
                    name=__name__,
                    key="message",
                )

    def _write(self, task: str, computed: dict, scores: list, images: list[dict]) -> None:
        rows = [image | vars(score) for image, score in zip(images, scores, strict=True)]
        document = {"metrics": {split or "all": values for split, values in computed.items()}, "images": rows}
        with atomic_write(Path(self.output_dir, f"{task}.json"), "w") as file:
            json.dump(_plain(document), file)


def _array(value: object) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _plain(value: object) -> object:
    """Replace numbers that json does not know (nan, inf) by null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
