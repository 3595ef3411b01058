"""PASCAL VOC's measures of instance segmentation: AP^r at an IoU, AP^r_vol, and the box AP of its XML annotations.

AP^r (Hariharan et al., Simultaneous Detection and Segmentation, 2014) is VOC's detection AP with the IoU of masks.
"""

import os
import tempfile
import xml.etree.ElementTree as ET
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_ap
from detectron2.structures import Instances
from detectron2.utils import comm

from s4m.data.coco import read_content
from s4m.evaluation.coco import build_coco_evaluator

VOLUME = tuple(tenth / 10 for tenth in range(1, 10))  # IoU thresholds of AP^r_vol
_NO_TRUTH = -1
_DEFAULTS = {"pose": "Unspecified", "truncated": "0", "difficult": "0"}  # of objects in XML that other tools wrote


class WithoutVoid(DatasetEvaluator):
    """Another evaluator that sees predicted masks without the image's void pixels, which the truth's masks lack too.

    A prediction that lies in the void altogether is dropped; boxes stay as they are predicted.
    """

    def __init__(self, inner: DatasetEvaluator, void: Mapping[int, dict]):
        """
        Args:
            inner: evaluator of `instances` with `pred_masks`.
            void: by image id the RLE of the void pixels; images without any may be absent.
        """
        self._inner, self._void = inner, void

    def reset(self) -> None:
        self._inner.reset()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Detectron2's inputs with `image_id`, and outputs with masks (N, H, W) bool at the size of the annotation."""
        cut = [
            {**o, "instances": self._cut(i["image_id"], o["instances"])} for i, o in zip(inputs, outputs, strict=True)
        ]
        self._inner.process(inputs, cut)

    def _cut(self, image_id: int, instances: Instances) -> Instances:
        if image_id not in self._void or not len(instances):
            return instances
        valid = torch.from_numpy(mask_util.decode(self._void[image_id]) == 0).to(instances.pred_masks.device)
        result = Instances(instances.image_size, **instances.get_fields())
        result.pred_masks = instances.pred_masks & valid
        return result[result.pred_masks.flatten(1).any(1) | ~instances.pred_masks.flatten(1).any(1)]

    def evaluate(self) -> dict | None:
        return self._inner.evaluate()


def average_precision(
    scores: np.ndarray, overlaps: np.ndarray, truths: np.ndarray, count: int, threshold: float
) -> float:
    """VOC's AP of one class, by the convention of 2010 and later: the area under the precision-recall curve whose
    precision is made monotone, at every recall that occurs.

    Detections are taken by falling score, equal ones in the given order. Each is compared with the object of its image
    that it overlaps most: it is right if the IoU is at least the threshold and no detection before it took that
    object; a second detection of an object is wrong.

    Args:
        scores: (N,) of the class's detections in all images.
        overlaps: (N,) IoU with the most overlapped object of the class.
        truths: (N,) a number for that object that is its own over all images, below 0 where there is none.
        count: objects of the class in all images.
        threshold: least IoU, inclusive.

    Returns:
        AP from 0 to 1; NaN if the class has no object.
    """
    if count == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    truths, hits = truths[order], np.flatnonzero((overlaps[order] >= threshold) & (truths[order] >= 0))
    right = np.zeros(len(order))
    right[hits[np.unique(truths[hits], return_index=True)[1]]] = 1
    hits = np.cumsum(right)
    return float(voc_ap(hits / count, hits / np.arange(1, len(order) + 1)))


class VOCInstanceEvaluator(DatasetEvaluator):
    """AP^r at 0.5 and 0.7, and AP^r_vol, the mean of AP^r over the IoUs 0.1, 0.2, ... 0.9; in percent.

    Each is the mean over the classes that have an object. "Difficult" objects count like all, as in AP^r's origin;
    crowds, which VOC has not, are no objects.
    """

    def __init__(self, data: Mapping, class_names: Sequence[str]):
        """
        Args:
            data: COCO content with RLE masks; its category ids in rising order are the classes 0, 1, ...
            class_names: thing classes.
        """
        self._class_names = list(class_names)
        classes = {id_: i for i, id_ in enumerate(sorted(category["id"] for category in data["categories"]))}
        self._truths = defaultdict(list)  # (image id, class) -> (number of the object, RLE)
        self._counts = np.zeros(len(self._class_names), np.int64)
        for number, annotation in enumerate(a for a in data["annotations"] if not a.get("iscrowd", 0)):
            kind = classes[annotation["category_id"]]
            self._truths[annotation["image_id"], kind].append((number, annotation["segmentation"]))
            self._counts[kind] += 1

    def reset(self) -> None:
        self._found = []  # of each detection: class, score, IoU, object

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Detectron2's inputs with `image_id`, and outputs with pred_masks (N, H, W) bool, scores and pred_classes."""
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            masks = np.asfortranarray(instances.pred_masks.numpy().astype(np.uint8).transpose(1, 2, 0))
            rows = zip(mask_util.encode(masks), instances.scores.tolist(), instances.pred_classes.tolist(), strict=True)
            self._found += [(kind, score, *self._nearest(image["image_id"], kind, m)) for m, score, kind in rows]

    def _nearest(self, image_id: int, kind: int, mask: dict) -> tuple[float, int]:
        """IoU with the object of that class in the image that the mask overlaps most, and the object's number."""
        truths = self._truths.get((image_id, kind))
        if not truths:
            return 0.0, _NO_TRUTH
        iou = mask_util.iou([mask], [rle for _, rle in truths], [0] * len(truths))[0]
        best = int(iou.argmax())
        return float(iou[best]), truths[best][0]

    def evaluate(self) -> dict | None:
        """{"voc": {"APr50", "APr70", "APr_vol", and for each class with objects "APr50-name", "APr70-name"}}.

        All processes must call it; the main one gets the result.
        """
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return None
        kinds, scores, overlaps, truths = _columns([row for part in gathered for row in part])
        table = np.full((len(self._class_names), len(VOLUME)), np.nan)
        for kind in np.flatnonzero(self._counts):
            of = kinds == kind
            columns = scores[of], overlaps[of], truths[of], int(self._counts[kind])
            table[kind] = [100 * average_precision(*columns, threshold) for threshold in VOLUME]
        present = table[self._counts > 0]
        mean = present.mean(axis=0) if len(present) else np.full(len(VOLUME), np.nan)
        at = {"APr50": VOLUME.index(0.5), "APr70": VOLUME.index(0.7)}
        result = {name: float(mean[i]) for name, i in at.items()} | {"APr_vol": float(mean.mean())}
        for name, i in at.items():
            result |= {f"{name}-{self._class_names[k]}": float(table[k, i]) for k in np.flatnonzero(self._counts)}
        return OrderedDict(voc=result)


def _columns(rows: list[tuple]) -> tuple[np.ndarray, ...]:
    """Classes, scores, overlaps and numbers of objects as arrays (N,)."""
    kinds, scores, overlaps, truths = zip(*rows, strict=True) if rows else ((), (), (), ())
    return np.array(kinds, np.int64), np.array(scores, float), np.array(overlaps, float), np.array(truths, np.int64)


class VOCBoxEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's evaluation of boxes against VOC's XML, on the images of a json, for the classes that occur.

    The result is under "voc_bbox". Images are known by the names of their files; coordinates with a fraction, which a
    few XML files of VOC 2012 have, are rounded.
    """

    def __init__(self, dataset_name: str, names: Sequence[str]):
        """
        Args:
            dataset_name: registered set whose metadata has dirname (the folder of Annotations), year, split and
                thing_classes.
            names: the images, without suffix.
        """
        super().__init__(dataset_name)
        self._names = list(names)

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        super().process([{**i, "image_id": Path(i["file_name"]).stem} for i in inputs], outputs)

    def evaluate(self) -> dict | None:
        """As the base class, in percent."""
        with tempfile.TemporaryDirectory(prefix="voc_boxes_") as folder:
            occurring = self._copy_annotations(folder)
            kept = [i for i, name in enumerate(self._class_names) if name in occurring]
            names, source = self._class_names, self._anno_file_template
            self._predictions = {kept.index(i): lines for i, lines in self._predictions.items() if i in kept}
            self._class_names = [names[i] for i in kept]
            self._anno_file_template = os.path.join(folder, "{}.xml")
            self._image_set_path = os.path.join(folder, "images.txt")
            Path(self._image_set_path).write_text("\n".join(self._names), encoding="utf-8")
            result = super().evaluate()
            self._class_names, self._anno_file_template = names, source
        parse_rec.cache_clear()  # it would keep what it read from the folder that is gone
        return OrderedDict(voc_bbox=result["bbox"]) if result else None

    def _copy_annotations(self, folder: str) -> set[str]:
        """Write the XML files with whole coordinates and all that Detectron2 reads of an object.

        Returns:
            the classes of the objects that are not difficult.
        """
        occurring = set()
        for name in self._names:
            tree = ET.parse(self._anno_file_template.format(name))
            for item in tree.findall("object"):
                for key, value in _DEFAULTS.items():
                    if not item.findtext(key):
                        element = item.find(key)
                        (ET.SubElement(item, key) if element is None else element).text = value
                if item.findtext("difficult") == "0":
                    occurring.add(item.findtext("name"))
                for side in item.find("bndbox"):
                    side.text = str(round(float(side.text)))
            tree.write(os.path.join(folder, f"{name}.xml"))
        return occurring


def build_voc_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """COCO AP and AP^r without void pixels, and box AP where every image has its XML.

    Args:
        cfg: as for `build_coco_evaluator`.
        dataset_name: set registered by `s4m.data.voc_instances.register_voc_json`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    data = read_content(dataset_name)
    void = {image["id"]: image["void"] for image in data["images"] if "void" in image}
    masks = [build_coco_evaluator(cfg, dataset_name), VOCInstanceEvaluator(data, metadata.thing_classes)]
    evaluators = [WithoutVoid(DatasetEvaluators(masks), void)]
    names = [Path(image["file_name"]).stem for image in data["images"]]
    if all(Path(metadata.dirname, "Annotations", f"{name}.xml").is_file() for name in names):
        evaluators.append(VOCBoxEvaluator(dataset_name, names))
    return DatasetEvaluators(evaluators)
