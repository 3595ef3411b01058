"""Faults that are put into true labels, to measure how many of them an audit ranks first."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_util

from d2kit.coco_masks import decode_segmentation, encode_mask
from s4m.audit.rank import Finding

KINDS = ("wrong class", "missing", "shifted", "merged")
_SHIFT = (0.35, 0.7)  # of the object's sides
_FOUND = 0.5  # least IoU of a row with what an injected fault hides


class Fault(NamedTuple):
    """An injected fault.

    Attributes:
        kind: one of KINDS.
        label: id of the faulty annotation; None where it is missing.
        image_id: its image.
        hidden: RLE of the true masks that the labels lack now.
    """

    kind: str
    label: int | None
    image_id: int
    hidden: tuple[dict, ...]


def inject(annotations: Sequence[dict], count: int, seed: int) -> tuple[list[dict], list[Fault]]:
    """Put `count` faults into copies of annotations with RLE, of each kind about as many.

    Labels of one class get no wrong class. No object has two faults.

    Returns:
        the faulty annotations, and the faults.
    """
    rng = np.random.default_rng(seed)
    labels = {annotation["id"]: dict(annotation) for annotation in annotations}
    classes = sorted({annotation["category_id"] for annotation in annotations})
    kinds = [kind for kind in KINDS if kind != "wrong class" or len(classes) > 1]
    order = rng.permutation(list(labels)).tolist()
    faults: list[Fault] = []
    touched: set[int] = set()
    while len(faults) < count and order:
        number = order.pop()
        if number in touched:
            continue
        kind = kinds[len(faults) % len(kinds)]
        label = labels[number]
        true = label["segmentation"]
        touched.add(number)
        if kind == "wrong class":
            label["category_id"] = int(rng.choice([c for c in classes if c != label["category_id"]]))
            faults.append(Fault(kind, number, label["image_id"], ()))
        elif kind == "missing":
            del labels[number]
            faults.append(Fault(kind, None, label["image_id"], (true,)))
        elif kind == "shifted":
            moved = _shifted(label, rng)
            if moved is not None:
                label.update(moved)
                faults.append(Fault(kind, number, label["image_id"], (true,)))
        else:
            neighbor = _nearest(label, labels.values(), touched)
            if neighbor is not None:
                label.update(_merged(label, neighbor))
                touched.add(neighbor["id"])
                del labels[neighbor["id"]]
                faults.append(Fault(kind, number, label["image_id"], (true, neighbor["segmentation"])))
    return list(labels.values()), faults


def _shifted(label: Mapping, rng: np.random.Generator) -> dict | None:
    """Return the fields of a label that is moved by a share of its sides; None if much of it would leave the image."""
    mask = decode_segmentation(label["segmentation"], *label["segmentation"]["size"])
    angle = rng.uniform(0, 2 * np.pi)
    share = rng.uniform(*_SHIFT)
    steps = np.rint([share * np.sin(angle) * label["bbox"][3], share * np.cos(angle) * label["bbox"][2]]).astype(int)
    moved = np.zeros_like(mask)
    rows, columns = np.nonzero(mask) + steps[:, None]
    inside = (rows >= 0) & (columns >= 0) & (rows < mask.shape[0]) & (columns < mask.shape[1])
    moved[rows[inside], columns[inside]] = 1
    return encode_mask(moved) if inside.mean() > 0.8 and steps.any() else None


def _center(label: Mapping) -> np.ndarray:
    x, y, width, height = label["bbox"]
    return np.array([x + width / 2, y + height / 2])


def _nearest(label: Mapping, labels: Sequence[dict], touched: set[int]) -> dict | None:
    """Return the nearest untouched label of the image, if it is about as near as the objects are large."""
    others = [o for o in labels if o["image_id"] == label["image_id"] and o["id"] not in touched]
    if not others:
        return None
    distances = [np.linalg.norm(_center(label) - _center(other)) for other in others]
    nearest = int(np.argmin(distances))
    reach = 2 * max(*label["bbox"][2:], *others[nearest]["bbox"][2:])
    return others[nearest] if distances[nearest] < reach else None


def _merged(label: Mapping, neighbor: Mapping) -> dict:
    size = label["segmentation"]["size"]
    masks = [decode_segmentation(item["segmentation"], *size) for item in (label, neighbor)]
    return encode_mask(masks[0] | masks[1])


def found(
    faults: Sequence[Fault], findings: Sequence[Finding], given: Sequence[dict], predicted: Sequence[dict]
) -> list[bool]:
    """Return of each fault whether one of the findings shows it.

    A finding shows a fault if it is about the faulty label, or about an object that covers what the fault hides.
    """
    labels = {given[finding.given]["id"] for finding in findings if finding.given is not None}
    objects: dict[int, list[dict]] = {}
    for finding in findings:
        if finding.predicted is not None:
            objects.setdefault(predicted[finding.predicted]["image_id"], []).append(
                predicted[finding.predicted]["segmentation"]
            )
    hits = []
    for fault in faults:
        shown = objects.get(fault.image_id, []) if fault.hidden else []
        overlap = mask_util.iou(shown, list(fault.hidden), [0] * len(fault.hidden)) if shown else np.zeros(1)
        hits.append(fault.label in labels or bool(overlap.max() >= _FOUND))
    return hits
