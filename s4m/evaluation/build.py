"""The evaluator that fits a data set."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from s4m.evaluation.cityscapes import CityscapesAPEvaluator
from s4m.evaluation.coco import build_coco_evaluator
from s4m.evaluation.voc import build_voc_evaluator


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """COCO AP, or what the `evaluator_type` of the set's metadata asks for: voc_instances or cityscapes_instance.

    Args:
        cfg: complete configuration.
        dataset_name: a registered data set.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind == "voc_instances":
        return build_voc_evaluator(cfg, dataset_name)
    if kind == "cityscapes_instance":
        return CityscapesAPEvaluator(dataset_name)
    return build_coco_evaluator(cfg, dataset_name)
