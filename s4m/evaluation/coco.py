"""COCO mask, box and boundary AP."""

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

_DEFAULT_LIMIT = 100  # COCO's own
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
    """Detectron2's COCOEvaluator with the AP computed by faster-coco-eval: the same numbers, in C++.

    Results are keyed and scaled as Detectron2's; `boundary` stands beside `bbox` and `segm` when it is asked for.

    Args:
        dataset_name: a registered data set.
        tasks: of bbox, segm and boundary (Boundary AP: the lesser of mask IoU and of the IoU of the two boundary bands,
            Cheng et al., "Boundary IoU", CVPR 2021).
        max_dets_per_image: detections of an image and a class that count, the best first.
        boundary_ratio: width of the boundary band as a fraction of the image's diagonal.
        options: of COCOEvaluator.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str],
        *,
        max_dets_per_image: int = _DEFAULT_LIMIT,
        boundary_ratio: float = 0.02,
        **options: Any,
    ):
        super().__init__(dataset_name, tasks, max_dets_per_image=max_dets_per_image, use_fast_impl=False, **options)
        complete_annotations(self._coco_api.dataset)
        self._boundary_ratio = boundary_ratio

    @cached_property
    def _truth(self):
        """The annotations, with the masks that an evaluation leaves encoded for the next one."""
        from faster_coco_eval import COCO

        return COCO(self._coco_api.dataset)

    def _eval_predictions(self, predictions: list[dict], img_ids: list[int] | None = None) -> None:
        to_index = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        to_id = {index: category for category, index in to_index.items()}
        results = [
            {**item, "category_id": to_id[item["category_id"]] if to_id else item["category_id"]}
            for prediction in predictions
            for item in prediction["instances"]
        ]
        if self._output_dir:
            with atomic_write(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as file:
                json.dump(results, file)
        if not self._do_evaluation:
            logger.info("The data set has no annotations to evaluate against.")
            return
        for task in self._tasks:
            evaluation = self._evaluate(results, task, img_ids) if results else None
            if task == "boundary":
                logger.info("The tables of 'segm' that follow are those of the boundaries.")
            self._results[task] = self._derive_coco_results(
                evaluation, "bbox" if task == "bbox" else "segm", class_names=self._metadata.get("thing_classes")
            )

    def _evaluate(self, results: list[dict], task: str, img_ids: list[int] | None):
        """faster-coco-eval's evaluation of one task, summarized."""
        from faster_coco_eval import COCOeval_faster

        # With a box, the size of a mask would be its box's; and what an evaluation adds is not to reach the next one.
        left_out = "segmentation" if task == "bbox" else "bbox"
        detections = [{key: value for key, value in item.items() if key != left_out} for item in results]
        evaluation = COCOeval_faster(
            self._truth, self._truth.loadRes(detections), task, boundary_dilation_ratio=self._boundary_ratio
        )
        evaluation.params.maxDets = list(self._max_dets_per_image)
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.run()
        return evaluation


def build_coco_evaluator(cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
    """The evaluator of box and mask AP, and of boundary AP by choice; the log tells what computes them.

    faster-coco-eval is used where it is installed, unless `S4M.COCO_EVAL.FAST` is off; both give the same numbers.
    Above 100 `TEST.DETECTIONS_PER_IMAGE` the evaluation counts as many detections an image as the network gives.

    Args:
        cfg: OUTPUT_DIR, TEST.DETECTIONS_PER_IMAGE and S4M.COCO_EVAL are read.
        dataset_name: a registered data set.

    Raises:
        ValueError: boundary AP without faster-coco-eval, or a limit below the 10 detections that COCO's recall is of.
    """
    options = cfg.S4M.COCO_EVAL
    fast = options.FAST and INSTALLED
    if options.BOUNDARY and not fast:
        raise ValueError(
            "S4M.COCO_EVAL.BOUNDARY needs faster-coco-eval ("
            + ("S4M.COCO_EVAL.FAST is off)." if INSTALLED else "pip install faster-coco-eval).")
        )
    if options.MAX_DETS and options.MAX_DETS < 10:
        raise ValueError(f"S4M.COCO_EVAL.MAX_DETS must be 0, or 10 or more, but is {options.MAX_DETS}.")
    limit = options.MAX_DETS or max(_DEFAULT_LIMIT, cfg.TEST.DETECTIONS_PER_IMAGE)
    with contextlib.ExitStack() as stack:
        if "json_file" in MetadataCatalog.get(dataset_name).as_dict():
            # Detectron2's evaluator reads the json itself, without repairs.
            truth = read_truth(cfg, dataset_name)
            stack.enter_context(mock.patch.object(coco_evaluation, "COCO", lambda _: truth))
        return _build(cfg, dataset_name, fast, limit)


def _build(cfg: CfgNode, dataset_name: str, fast: bool, limit: int) -> COCOEvaluator:
    options = cfg.S4M.COCO_EVAL
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    if not fast:
        reason = "S4M.COCO_EVAL.FAST is off" if INSTALLED else "faster-coco-eval is not installed"
        logger.info("COCO AP by Detectron2's own evaluation: %s.", reason)
        evaluator = COCOEvaluator(
            dataset_name, ("bbox", "segm"), output_dir=folder, max_dets_per_image=limit, use_fast_impl=options.FAST
        )
        complete_annotations(evaluator._coco_api.dataset)
        return evaluator
    logger.info("COCO AP by faster-coco-eval, %d detections an image.", limit)
    tasks = ("bbox", "segm", "boundary") if options.BOUNDARY else ("bbox", "segm")
    return FasterCOCOEvaluator(
        dataset_name,
        tasks,
        output_dir=folder,
        max_dets_per_image=limit,
        boundary_ratio=options.BOUNDARY_RATIO,
    )
