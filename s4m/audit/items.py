"""The items of an audit, which are labels and objects without a label, and what a review makes of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pycocotools.mask as mask_util

from d2kit.audit.doubts import told, total
from d2kit.audit.review import Decision
from d2kit.coco_masks import describe_rle
from s4m.audit.doubts import DOUBTS, doubts_of
from s4m.audit.rank import rank

_CROWDED = 0.5  # An object with a greater share in crowd regions is no missing label.


class Item(NamedTuple):
    """A label, or an object that nobody labeled.

    Attributes:
        name: id of the annotation, or "prediction" and the position of the prediction from 0.
        content: the annotation, or the result.
        is_label: whether it is an annotation.
        doubt: 0 to 1.
        reasons: what speaks against the label, or for the object.
        other: fields that can take the place of those of the annotation: the mask before SAM, or the mask and the class
            that the network finds. None where there is nothing else.
        score: score of what the network finds; None where it finds nothing or is not asked.
    """

    name: str
    content: dict
    is_label: bool
    doubt: float
    reasons: tuple[str, ...]
    other: dict | None = None
    score: float | None = None


def items_of_labels(labels: Mapping) -> list[Item]:
    """Return the items of an audit of labels that SAM may have refined; crowd regions are none.

    Args:
        labels: content of `read_labels`.
    """
    annotations = _objects(labels)
    doubts = doubts_of(annotations)
    items = []
    for annotation, parts, doubt in zip(annotations, doubts, total(doubts).tolist(), strict=True):
        before = annotation.get("teacher_segmentation")
        other = {"segmentation": before, "refined": False} if before else None
        items.append(Item(str(annotation["id"]), annotation, True, doubt, told(parts, DOUBTS), other))
    return sorted(items, key=lambda item: -item.doubt)


def items_of_comparison(labels: Mapping, predicted: Sequence[dict]) -> list[Item]:
    """Return the items of an audit of given labels against a network; what lies in crowd regions is no missing label.

    Args:
        labels: content of `read_labels`.
        predicted: results of `read_predictions`.
    """
    given = _objects(labels)
    crowds = defaultdict(list)
    for annotation in labels["annotations"]:
        if annotation["iscrowd"]:
            crowds[annotation["image_id"]].append(annotation["segmentation"])
    items = []
    for doubt, reasons, label, prediction in rank(given, predicted):
        result = None if prediction is None else predicted[prediction]
        score = None if result is None else result["score"]
        if label is not None:
            other = None if result is None else {key: result[key] for key in ("segmentation", "category_id")}
            items.append(Item(str(given[label]["id"]), given[label], True, doubt, reasons, other, score))
        elif not _is_crowded(result["segmentation"], crowds[result["image_id"]]):
            items.append(Item(f"prediction {prediction}", result, False, doubt, reasons, None, score))
    return items


def _objects(labels: Mapping) -> list[dict]:
    return [annotation for annotation in labels["annotations"] if not annotation["iscrowd"]]


def _is_crowded(mask: dict, crowds: Sequence[dict]) -> bool:
    return bool(crowds) and mask_util.iou([mask], list(crowds), [1] * len(crowds)).max() > _CROWDED


def apply_review(labels: Mapping, items: Sequence[Item], decisions: Mapping[str, Decision]) -> dict:
    """Return the content of a COCO json in which decisions are carried out.

    Labels without a decision stay as they are. A label that was decided on has `reviewed` true and, if it had a
    `confidence`, the confidence 1. Objects that nobody labeled are added where they were accepted or given a class.

    Args:
        labels: content of `read_labels`.
        items: the items of the audit.
        decisions: by the names of items.

    Raises:
        ValueError: a decision is on no item, or names a class or another mask that does not exist.
    """
    classes = {category["name"]: category["id"] for category in labels["categories"]}
    by_name = {item.name: item for item in items}
    audited: dict[str, dict | None] = {}
    free = max((annotation["id"] for annotation in labels["annotations"]), default=0) + 1
    for name, decision in decisions.items():
        if name not in by_name:
            raise ValueError(f"the review decides on '{name}', which is not in the labels.")
        item = by_name[name]
        audited[name] = None if decision.kind == "reject" else _decided(item, decision, classes)
        if audited[name] is not None and not item.is_label:
            audited[name] |= {"id": free, "iscrowd": 0}
            free += 1
    kept = [audited.pop(str(annotation["id"]), annotation) for annotation in labels["annotations"]]
    kept += audited.values()
    return {**labels, "annotations": [annotation for annotation in kept if annotation is not None]}


def _decided(item: Item, decision: Decision, classes: Mapping[str, int]) -> dict:
    """Return the annotation of an item that stays."""
    changed = {**item.content, "reviewed": True}
    if "confidence" in changed:
        changed["confidence"] = 1.0
    if decision.kind == "class":
        if decision.label not in classes:
            raise ValueError(f"the review gives '{item.name}' the class '{decision.label}', which the labels lack.")
        changed["category_id"] = classes[decision.label]
    if decision.kind == "other":
        if item.other is None:
            raise ValueError(f"the review takes the other mask of '{item.name}', which has none.")
        changed |= item.other
    if decision.kind == "other" or not item.is_label:
        rle = changed["segmentation"]
        changed |= describe_rle({"size": rle["size"], "counts": rle["counts"].encode("ascii")})
    return changed
