"""Evaluators compute COCO's mask and box AP and boundary AP."""

import contextlib
import importlib.util
import io
import json
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from unittest import mock

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from pycocotools.coco import COCO as PlainCOCO

from d2kit.files import atomic_write
from s4m.data.classes import training_classes
from s4m.data.coco import complete_annotations, read_content

logger = logging.getLogger(__name__)

_COCO_MAX_DETS = 100  # COCO itself counts this many detections of an image.
INSTALLED = importlib.util.find_spec("faster_coco_eval") is not None


def read_truth(cfg: CfgNode, dataset_name: str) -> PlainCOCO:
    """Return the annotations of a set that is registered by its json as COCO's API, repaired as the set's loader does.

    Objects of classes that the training set lacks are left out, because no prediction can match them.

    Args:
        cfg: DATASETS.TRAIN and INPUT.CROWDS_AS_OBJECTS are read.
        dataset_name: registered set whose metadata has `json_file`.
    """
    data = read_content(dataset_name)
    trained = training_classes(cfg)
    categories = data.get("categories", ())
    unknown = {category["id"] for category in categories if category["name"] not in trained}
    if len(unknown) == len(categories):
        unknown = set()  # Sets without a name in common are taken for sets of the same classes.
    if "annotations" in data:
        known = (annotation for annotation in data["annotations"] if annotation["category_id"] not in unknown)
        crowds = {"iscrowd": 0} if cfg.INPUT.CROWDS_AS_OBJECTS else {}
        data["annotations"] = [annotation | crowds for annotation in known]
    api = PlainCOCO()
    api.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return api


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
    with contextlib.ExitStack() as stack:
        if "json_file" in MetadataCatalog.get(dataset_name).as_dict():
            # Detectron2's evaluator reads the json itself, without repairs.
            truth = read_truth(cfg, dataset_name)
            stack.enter_context(mock.patch.object(coco_evaluation, "COCO", lambda _: truth))
        return _build(cfg, dataset_name, fast)


def _build(cfg: CfgNode, dataset_name: str, fast: bool) -> COCOEvaluator:
    options = cfg.S4M.COCO_EVAL
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
    complete_annotations(evaluator._coco_api.dataset)
    return evaluator
