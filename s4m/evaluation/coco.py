"""COCO mask and box AP."""

import os

from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator


def build_coco_evaluator(cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
    """Detectron2's COCOEvaluator for boxes and masks.

    Above 100 `TEST.DETECTIONS_PER_IMAGE` the evaluation counts as many detections an image as the network gives.

    Args:
        cfg: OUTPUT_DIR and TEST.DETECTIONS_PER_IMAGE are read.
        dataset_name: a registered data set.
    """
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    return COCOEvaluator(
        dataset_name,
        tasks=("bbox", "segm"),
        output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"),
        max_dets_per_image=limit if limit > 100 else None,
    )
