"""The page of an audit of masks."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pycocotools.mask as mask_util

from d2kit.audit.page import Picture, Row
from s4m.audit.items import Item
from s4m.data.images import read_image

_SHARES = ("score", "confidence", "sam_quality", "agreement")


def pictures(labels: Mapping, items: Sequence[Item], images: str | os.PathLike) -> Iterator[Picture]:
    """Yield the images of items, each with its rows.

    Args:
        labels: content of `read_labels`.
        items: the items of the audit.
        images: folder of the images.

    Raises:
        FileNotFoundError, ValueError: an image cannot be read, or has another size than the labels say.
    """
    categories = sorted(labels["categories"], key=lambda category: category["id"])
    index = {category["id"]: number for number, category in enumerate(categories)}
    names = {category["id"]: category["name"] for category in categories}
    rows, masks = defaultdict(list), defaultdict(list)
    for item in items:
        rows[item.content["image_id"]].append(_row(item, index, names))
    for annotation in labels["annotations"]:
        if not annotation["iscrowd"]:
            masks[annotation["image_id"]].append(annotation["segmentation"])
    for image in labels["images"]:
        if image["id"] not in rows:
            continue
        path = Path(images, image["file_name"])
        pixels = read_image(os.fspath(path), "BGR")
        if pixels.shape[:2] != (image["height"], image["width"]):
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise ValueError(f"'{path}' is {size} pixels, but the labels say {image['width']}x{image['height']}.")
        yield Picture(image["file_name"], path, pixels, masks[image["id"]], rows[image["id"]])


def _row(item: Item, index: Mapping[int, int], names: Mapping[int, str]) -> Row:
    content = item.content
    mask = content["segmentation"]
    other = item.other["segmentation"] if item.other else None
    boxes = [mask_util.toBbox(rle) for rle in (mask, other) if rle]
    box = (
        min(x for x, _, _, _ in boxes),
        min(y for _, y, _, _ in boxes),
        max(x + width for x, _, width, _ in boxes),
        max(y + height for _, y, _, height in boxes),
    )
    facts = {key.replace("_", " "): f"{content[key]:.2f}" for key in _SHARES if content.get(key) is not None}
    facts["area"] = f"{int(mask_util.area(mask))} pixels"
    if item.is_label and item.score is not None and item.other:
        facts["network says"] = f"{names[item.other['category_id']]}, score {item.score:.2f}"
    if not item.is_label:
        mask, other = None, mask
    return Row(item.name, index[content["category_id"]], item.doubt, item.reasons, box, mask, other, None, facts)
