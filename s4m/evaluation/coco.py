"""Evaluators compute COCO's mask and box AP and boundary AP."""

import importlib.util
import json
import logging
import math
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO as PlainCOCO

from d2kit.files import atomic_write

logger = logging.getLogger(__name__)

_COCO_MAX_DETS = 100  # COCO itself counts this many detections of an image.
INSTALLED = importlib.util.find_spec("faster_coco_eval") is not None


def complete_annotations(api: PlainCOCO) -> None:
    """Fill in place what a json may lack and COCO's evaluation needs.

    Args:
        api: annotations as COCO's API holds them. `iscrowd` becomes 0, and `area`, in pixels, that of the mask, or that
            of the box if there is no mask.
    """
    for annotation in api.dataset.get("annotations", ()):
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            if annotation.get("segmentation"):
                annotation["area"] = float(mask_util.area(api.annToRLE(annotation)))
            else:
                annotation["area"] = float(math.prod(annotation["bbox"][2:]))


class FasterCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator, in which faster-coco-eval computes the AP: the same numbers, in C++.

    Results have Detectron2's keys and scale; `boundary` is a task beside `bbox` and `segm`.

    Args:
        dataset_name: a registered data set.
        tasks: bbox, segm, boundary, or several of them. Boundary AP takes the lesser of the IoU of the masks and the
            IoU of their boundary bands (Cheng et al., "Boundary IoU", CVPR 2021).
        boundary_ratio: width of the boundary band as a fraction of the image's diagonal.
        options: further arguments of COCOEvaluator.
    """

    def __init__(self, dataset_name: str, tasks: Sequence[str], *, boundary_ratio: float, **options: Any):
        super().__init__(dataset_name, tasks, use_fast_impl=False, **options)
        self._boundary_ratio = boundary_ratio

    @cached_property
    def _truth(self):
        """The annotations; an evaluation leaves their masks encoded for the next one."""
        from faster_coco_eval import COCO

        return COCO(self._coco_api.dataset)

    def _eval_predictions(self, predictions: list[dict], img_ids: list[int] | None = None) -> None:
        to_index = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        category_ids = {index: category_id for category_id, index in to_index.items()}
        results = [
            {**item, "category_id": category_ids[item["category_id"]] if category_ids else item["category_id"]}
            for prediction in predictions
            for item in prediction["instances"]
        ]
        if self._output_dir:
            with atomic_write(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as file:
                json.dump(results, file)
        if not self._do_evaluation:
            logger.info("The data set has no annotations, so nothing is evaluated.")
            return
        for task in self._tasks:
            evaluation = self._evaluate(results, task, img_ids) if results else None
            if task == "boundary":
                logger.info("The next tables of 'segm' are those of the boundaries.")
            self._results[task] = self._derive_coco_results(
                evaluation, "bbox" if task == "bbox" else "segm", class_names=self._metadata.get("thing_classes")
            )

    def _evaluate(self, results: list[dict], task: str, img_ids: list[int] | None):
        """Return faster-coco-eval's evaluation of one task."""
        from faster_coco_eval import COCOeval_faster

        # With a box, a mask would have the size of its box. The evaluation writes into these copies.
        unused = "segmentation" if task == "bbox" else "bbox"
        detections = [{key: value for key, value in item.items() if key != unused} for item in results]
        evaluation = COCOeval_faster(
            self._truth, self._truth.loadRes(detections), task, boundary_dilation_ratio=self._boundary_ratio
        )
        evaluation.params.maxDets = list(self._max_dets_per_image)
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.run()
        return evaluation


def build_coco_evaluator(cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
    """Build the evaluator of box and mask AP and, on request, boundary AP; the log says which library computes them.

    faster-coco-eval is used if it is installed and `S4M.COCO_EVAL.FAST` is on; the numbers are the same without it.

    Args:
        cfg: OUTPUT_DIR, TEST.DETECTIONS_PER_IMAGE and S4M.COCO_EVAL are read.
        dataset_name: a registered data set.

    Raises:
        ValueError: boundary AP needs faster-coco-eval, or MAX_DETS is below the 10 detections of COCO's recall.
    """
    options = cfg.S4M.COCO_EVAL
    fast = options.FAST and INSTALLED
    if options.BOUNDARY and not fast:
        remedy = "S4M.COCO_EVAL.FAST is off" if INSTALLED else "pip install faster-coco-eval"
        raise ValueError(f"S4M.COCO_EVAL.BOUNDARY needs faster-coco-eval ({remedy}).")
    if options.MAX_DETS and options.MAX_DETS < 10:
        raise ValueError(f"S4M.COCO_EVAL.MAX_DETS must be 0, or 10 or more, but is {options.MAX_DETS}.")
    max_dets = options.MAX_DETS or max(_COCO_MAX_DETS, cfg.TEST.DETECTIONS_PER_IMAGE)
    tasks = ("bbox", "segm", "boundary") if options.BOUNDARY else ("bbox", "segm")
    common = {"output_dir": os.path.join(cfg.OUTPUT_DIR, "inference"), "max_dets_per_image": max_dets}
    if fast:
        logger.info("faster-coco-eval computes COCO AP, with %d detections an image.", max_dets)
        evaluator = FasterCOCOEvaluator(dataset_name, tasks, boundary_ratio=options.BOUNDARY_RATIO, **common)
    else:
        reason = "S4M.COCO_EVAL.FAST is off" if INSTALLED else "faster-coco-eval is not installed"
        logger.info("Detectron2 itself computes COCO AP, because %s.", reason)
        evaluator = COCOEvaluator(dataset_name, tasks, use_fast_impl=options.FAST, **common)
    complete_annotations(evaluator._coco_api)
    return evaluator
