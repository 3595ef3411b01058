"""One function chooses the evaluator of a data set."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances

from s4m.data.classes import class_indices, classes_of, training_classes
from s4m.evaluation.cityscapes import CityscapesAPEvaluator
from s4m.evaluation.coco import build_coco_evaluator
from s4m.evaluation.voc import build_voc_evaluator


class WithClasses(DatasetEvaluator):
    """Another evaluator that sees predictions with the class indices of its data set.

    Predictions of classes that the data set lacks are left out; an AP of a class does not depend on other classes.
    """

    def __init__(self, inner: DatasetEvaluator, indices: Sequence[int]) -> None:
        """
        Args:
            inner: evaluator of `instances` with `pred_classes`.
            indices: by class index of the predictions the index in the data set, -1 where it lacks the class.
        """
        self._inner = inner
        self._indices = torch.tensor(indices)

    def reset(self) -> None:
        self._inner.reset()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Detectron2's inputs, and outputs with `instances`."""
        self._inner.process(inputs, [{**o, "instances": self._translate(o["instances"])} for o in outputs])

    def _translate(self, instances: Instances) -> Instances:
        classes = self._indices.to(instances.pred_classes.device)[instances.pred_classes]
        result = Instances(instances.image_size, **instances.get_fields())
        result.pred_classes = classes
        return result[classes >= 0]

    def evaluate(self) -> dict | None:
        return self._inner.evaluate()


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """Build COCO AP, or what the `evaluator_type` of the set's metadata names: voc_instances or cityscapes_instance.

    Args:
        cfg: complete configuration.
        dataset_name: a registered data set.

    Raises:
        ValueError: the set is a folder of images.
    """
    if not {"thing_classes", "json_file"} & MetadataCatalog.get(dataset_name).as_dict().keys():
        raise ValueError(f"DATASETS.TEST: '{dataset_name}' has no annotation to evaluate by")
    evaluator = _build(cfg, dataset_name)
    indices = class_indices(training_classes(cfg), classes_of(dataset_name))
    if indices == list(range(len(indices))):
        return evaluator
    return WithClasses(evaluator, indices)


def _build(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type == "voc_instances":
        return build_voc_evaluator(cfg, dataset_name)
    if evaluator_type == "cityscapes_instance":
        return CityscapesAPEvaluator(dataset_name)
    return build_coco_evaluator(cfg, dataset_name)
