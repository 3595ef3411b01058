"""PASCAL VOC measures instance segmentation by AP^r at an IoU and AP^r_vol, and boxes by the AP of its XML annotations.

AP^r (Hariharan et al., Simultaneous Detection and Segmentation, 2014) is VOC's detection AP with the IoU of masks.
"""

import tempfile
import xml.etree.ElementTree as ET
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, pascal_voc_evaluation
from detectron2.structures import Instances
from detectron2.utils import comm

from s4m.data.coco import read_content
from s4m.evaluation.coco import build_coco_evaluator

VOLUME = tuple(tenth / 10 for tenth in range(1, 10))  # AP^r_vol is the mean over these IoU thresholds.


class WithoutVoid(DatasetEvaluators):
    """Takes the image's void pixels, which the ground truth lacks, out of predicted masks for other evaluators.

    A prediction that lies entirely in void is dropped; boxes stay as they are predicted.
    """

    def __init__(self, evaluators: Sequence[DatasetEvaluator], void: Mapping[int, dict]):
        """
        Args:
            evaluators: evaluators of `instances` with `pred_masks`.
            void: RLE of the void pixels by image id; an image without void may be absent.
        """
        super().__init__(evaluators)
        self._void = void

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Take Detectron2's inputs with `image_id`, and outputs with masks (N, H, W) bool at the annotation's size."""
        pairs = zip(inputs, outputs, strict=True)
        outputs = [{**o, "instances": self._without_void(i["image_id"], o["instances"])} for i, o in pairs]
        super().process(inputs, outputs)

    def _without_void(self, image_id: int, instances: Instances) -> Instances:
        if image_id not in self._void or not len(instances):
            return instances
        valid = torch.from_numpy(mask_util.decode(self._void[image_id]) == 0).to(instances.pred_masks.device)
        result = Instances(instances.image_size, **instances.get_fields())
        result.pred_masks = instances.pred_masks & valid
        return result[result.pred_masks.flatten(1).any(1) | ~instances.pred_masks.flatten(1).any(1)]


def average_precision(
    scores: np.ndarray, overlaps: np.ndarray, truths: np.ndarray, count: int, threshold: float
) -> float:
    """Return VOC's AP of one class by the convention of 2010 and later.

    It is the area under the precision-recall curve whose precision is made monotone, at every recall that occurs.
    Detections are taken by falling score, equal ones in the given order. A detection is right if its IoU is at least
    the threshold and no detection before it took its object; a second detection of an object is wrong.

    Args:
        scores: (N,) scores of the class's detections in all images.
        overlaps: (N,) IoU with the object of the class in the image that the detection overlaps most.
        truths: (N,) number of that object, which is unique over all images; below 0 if there is none.
        count: number of objects of the class in all images.
        threshold: least IoU, inclusive.

    Returns:
        AP from 0 to 1; NaN if the class has no object.
    """
    if count == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    truths = truths[order]
    hits = np.flatnonzero((overlaps[order] >= threshold) & (truths >= 0))
    right = np.zeros(len(order))
    right[hits[np.unique(truths[hits], return_index=True)[1]]] = 1
    hits = np.cumsum(right)
    return float(pascal_voc_evaluation.voc_ap(hits / count, hits / np.arange(1, len(order) + 1)))


class VOCInstanceEvaluator(DatasetEvaluator):
    """Computes AP^r at 0.5 and 0.7, and AP^r_vol, the mean of AP^r over the IoUs 0.1, 0.2, ... 0.9, in percent.

    Each is the mean over the classes that have an object. "Difficult" objects count like all others, as in the paper
    of AP^r; crowds, which VOC does not have, are no objects.
    """

    def __init__(self, data: Mapping, class_names: Sequence[str]):
        """
        Args:
            data: COCO content with RLE masks; its category ids in rising order are the classes 0, 1, ...
            class_names: thing classes.
        """
        self._class_names = list(class_names)
        categories = sorted(category["id"] for category in data["categories"])
        self._truths = defaultdict(list)  # It maps (image id, class) to the objects, each a number and an RLE.
        self._counts = np.zeros(len(self._class_names), np.int64)
        for number, annotation in enumerate(a for a in data["annotations"] if not a.get("iscrowd", 0)):
            class_index = categories.index(annotation["category_id"])
            self._truths[annotation["image_id"], class_index].append((number, annotation["segmentation"]))
            self._counts[class_index] += 1

    def reset(self) -> None:
        self._detections = []  # Each row holds class, score, IoU and number of the object.

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Take Detectron2's inputs with `image_id`, outputs with pred_masks (N, H, W) bool, scores and pred_classes."""
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            masks = mask_util.encode(np.asfortranarray(instances.pred_masks.permute(1, 2, 0).byte().numpy()))
            rows = zip(instances.pred_classes.tolist(), instances.scores.tolist(), masks, strict=True)
            for class_index, score, mask in rows:
                overlap = self._best_overlap(image["image_id"], class_index, mask)
                self._detections.append((class_index, score, *overlap))

    def _best_overlap(self, image_id: int, class_index: int, mask: dict) -> tuple[float, int]:
        """Return IoU and number of the object of the class that the mask overlaps most, or (0, -1)."""
        truths = self._truths.get((image_id, class_index))
        if not truths:
            return 0.0, -1
        iou = mask_util.iou([mask], [rle for _, rle in truths], [0] * len(truths))[0]
        best = int(iou.argmax())
        return float(iou[best]), truths[best][0]

    def evaluate(self) -> dict | None:
        """Return {"voc": {"APr50", "APr70", "APr_vol", and "APr50-name", "APr70-name" for each class with objects}}.

        All processes must call this; the main one gets the result.
        """
        gathered = comm.gather(self._detections, dst=0)
        if not comm.is_main_process():
            return None
        detections = np.array([row for rows in gathered for row in rows], float).reshape(-1, 4)
        table = np.empty((len(self._class_names), len(VOLUME)))  # The row of a class without an object becomes NaN.
        for class_index, count in enumerate(self._counts):
            columns = detections[detections[:, 0] == class_index, 1:].T
            table[class_index] = [100 * average_precision(*columns, count, threshold) for threshold in VOLUME]
        means = np.nanmean(table, axis=0)
        thresholds = {"APr50": VOLUME.index(0.5), "APr70": VOLUME.index(0.7)}
        result = {name: float(means[i]) for name, i in thresholds.items()} | {"APr_vol": float(means.mean())}
        for name, i in thresholds.items():
            result |= {f"{name}-{self._class_names[c]}": float(table[c, i]) for c in np.flatnonzero(self._counts)}
        return OrderedDict(voc=result)


class VOCBoxEvaluator(pascal_voc_evaluation.PascalVOCDetectionEvaluator):
    """Detectron2's evaluation of boxes against VOC's XML files, for the images of a json and the classes that occur.

    The result is under "voc_bbox". Images are known by the names of their files.
    """

    def __init__(self, dataset_name: str, names: Sequence[str]):
        """
        Args:
            dataset_name: registered set whose metadata has dirname (the folder of Annotations), year, split and
                thing_classes.
            names: file names of the images without suffix.
        """
        super().__init__(dataset_name)
        self._objects = {name: _read_objects(self._anno_file_template.format(name)) for name in names}
        counted = {item["name"] for objects in self._objects.values() for item in objects if not item["difficult"]}
        self._occurring = [i for i, name in enumerate(self._class_names) if name in counted]
        self._class_names = [self._class_names[i] for i in self._occurring]
        self._anno_file_template = "{}"

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        super().process([{**i, "image_id": Path(i["file_name"]).stem} for i in inputs], outputs)

    def evaluate(self) -> dict | None:
        """Return the figures of the base class, in percent."""
        predictions = self._predictions
        self._predictions = {i: predictions[c] for i, c in enumerate(self._occurring) if c in predictions}
        with (
            tempfile.NamedTemporaryFile("w", prefix="voc_images_", suffix=".txt") as file,
            mock.patch.object(pascal_voc_evaluation, "parse_rec", self._objects.get),
        ):
            file.write("\n".join(self._objects))
            file.flush()
            self._image_set_path = file.name
            result = super().evaluate()
        return OrderedDict(voc_bbox=result["bbox"]) if result else None


def _read_objects(path: str) -> list[dict]:
    """Read an XML file as Detectron2's `parse_rec` does, and accept files that it refuses.

    A few files of VOC 2012 have coordinates with a fraction; other tools leave out `difficult`, which is 0 then.
    """
    return [
        {
            "name": item.findtext("name"),
            "difficult": int(item.findtext("difficult") or 0),
            "bbox": [round(float(item.findtext(f"bndbox/{side}"))) for side in ("xmin", "ymin", "xmax", "ymax")],
        }
        for item in ET.parse(path).findall("object")
    ]


def build_voc_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """Build the evaluator of COCO AP and AP^r without void pixels, and of box AP if every image has its XML file.

    Args:
        cfg: configuration as for `build_coco_evaluator`.
        dataset_name: set registered by `s4m.data.voc_instances.register_voc_json`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    data = read_content(dataset_name)
    void = {image["id"]: image["void"] for image in data["images"] if "void" in image}
    masks = [build_coco_evaluator(cfg, dataset_name), VOCInstanceEvaluator(data, metadata.thing_classes)]
    evaluators = [WithoutVoid(masks, void)]
    names = [Path(image["file_name"]).stem for image in data["images"]]
    if all(Path(metadata.dirname, "Annotations", f"{name}.xml").is_file() for name in names):
        evaluators.append(VOCBoxEvaluator(dataset_name, names))
    return DatasetEvaluators(evaluators)
