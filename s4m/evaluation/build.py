"""One function chooses the evaluator of a data set."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from s4m.evaluation.cityscapes import CityscapesAPEvaluator
from s4m.evaluation.coco import build_coco_evaluator
from s4m.evaluation.voc import build_voc_evaluator


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """Build what the `evaluator_type` of the set's metadata names: voc_instances, cityscapes_instance, else COCO AP."""
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type == "voc_instances":
        return build_voc_evaluator(cfg, dataset_name)
    if evaluator_type == "cityscapes_instance":
        return CityscapesAPEvaluator(dataset_name)
    return build_coco_evaluator(cfg, dataset_name)
