"""The images, points and masks of an audit are read, and reviewed ones are written."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2kit.audit.page import Picture, Row
from d2kit.audit.review import Decision
from d2kit.coco_masks import encode_mask
from d2kit.config_files import compose_config
from d2kit.files import inside, whole_folder, write_png
from istd.audit.items import Item, items_of, regions
from istd.config import add_istd_config
from istd.data.images import read_infrared, read_mask, stretch
from istd.engine.data import load_datasets
from istd.engine.labels import FOLDER
from istd.pseudo_masks.state import PseudoMasks, saved_versions


class Audit(NamedTuple):
    """What is audited.

    Attributes:
        records: dataset dicts with points.
        masks: (H, W) bool masks by image id: the latest pseudo-masks, or the true masks of the data set.
        first: the first pseudo-masks; empty without a training.
        files: files on which all of this depends.
    """

    records: list[dict]
    masks: dict[str, np.ndarray]
    first: dict[str, np.ndarray]
    files: list[Path]

    def items(self) -> list[Item]:
        """Return the items of the audit."""
        return items_of(self.records, self.masks, self.first)


def read_audit(source: str) -> Audit:
    """Read a data set, or the data set and the pseudo-masks of a training.

    Args:
        source: name of a data set with points, or OUTPUT_DIR of a training.

    Raises:
        FileNotFoundError, ValueError: something is absent or unfit; the message names it.
    """
    masks, first, files = {}, {}, []
    if Path(source).is_dir():
        versions = saved_versions(Path(source, FOLDER))
        if not versions:
            raise FileNotFoundError(
                f"'{source}' holds no pseudo-masks: it is not the OUTPUT_DIR of a training on points."
            )
        names = compose_config([Path(source, "config.yaml")], [], [add_istd_config]).DATASETS.TRAIN
        records = load_datasets(names, "DATASETS.TRAIN")
        first, masks = (_above_half(path) for path in (versions[0], versions[-1]))
        files = [versions[0], versions[-1]]
    else:
        records = load_datasets([source], "the data set")
        for record in records:
            if "mask_file" in record:
                masks[record["image_id"]] = read_mask(record["mask_file"]) > 0
                files.append(Path(record["mask_file"]))
    pointless = [record["image_id"] for record in records if "points" not in record]
    if pointless:
        raise ValueError(f"'{source}': image '{pointless[0]}' has no points to audit.")
    return Audit(records, masks, first, files)


def _above_half(path: Path) -> dict[str, np.ndarray]:
    return {image_id: mask > 0.5 for image_id, mask in PseudoMasks.read(path).items()}


def pictures(audit: Audit, items: Sequence[Item]) -> Iterator[Picture]:
    """Yield the images of items, each with its rows."""
    of_image: dict[str, list[Item]] = {}
    for item in items:
        of_image.setdefault(item.image_id, []).append(item)
    for record in audit.records:
        image_id = record["image_id"]
        if image_id not in of_image:
            continue
        gray = read_infrared(record["file_name"])
        mask, first = (
            regions(source[image_id]) if image_id in source else np.zeros(gray.shape, int)
            for source in (audit.masks, audit.first)
        )
        rows = [_row(item, mask == item.region, first == item.other) for item in of_image[image_id]]
        labels = [encode_mask(mask > 0)["segmentation"]]
        yield Picture(image_id, Path(record["file_name"]), stretch(gray).astype(np.uint8), labels, rows)


def _row(item: Item, mask: np.ndarray, other: np.ndarray) -> Row:
    x, y = item.point
    box = [x, y, x + 1, y + 1]
    rle = {}
    for key, number, pixels in (("mask", item.region, mask), ("other", item.other, other)):
        if number:
            rle[key] = encode_mask(pixels)["segmentation"]
            left, top, width, height = encode_mask(pixels)["bbox"]
            box = [min(box[0], left), min(box[1], top), max(box[2], left + width), max(box[3], top + height)]
    facts = {"point": f"{x}, {y}", "mask": f"{int(mask.sum()) if item.region else 0} pixels"}
    point = (x + 0.5, y + 0.5) if item.is_point else None
    return Row(item.name, 0, item.doubt, item.reasons, box, point=point, facts=facts, **rle)


def write_reviewed(audit: Audit, items: Sequence[Item], decisions: Mapping[str, Decision], output: Path) -> int:
    """Write a new folder with `points.csv` and, where there are masks, `masks/IMAGE.png`; return the number of points.

    A rejected point goes with its mask, unless another point has the same one, and a rejected mask goes. An accepted
    mask without a point gets one. All else stays as it is.

    Args:
        audit: what was audited.
        items: its items.
        decisions: by the names of items.
        output: folder to make.

    Raises:
        FileExistsError: the output exists.
        ValueError: a decision is on no item.
    """
    if output.exists():
        raise FileExistsError(f"'{output}' exists: choose another output.")
    known = {item.name for item in items}
    unknown = [name for name in decisions if name not in known]
    if unknown:
        raise ValueError(f"the review decides on '{unknown[0]}', which is not in the audited points and masks.")
    of_image: dict[str, list[Item]] = {}
    for item in items:
        of_image.setdefault(item.image_id, []).append(item)
    lines: list[tuple] = []
    with whole_folder(output) as folder:
        for record in audit.records:
            image_id = record["image_id"]
            points, mask = _reviewed(audit, image_id, of_image.get(image_id, []), decisions)
            lines += [(image_id, *point) for point in points or [("", "")]]
            if mask is not None:
                write_png(inside(folder / "masks", f"{image_id}.png"), mask.astype(np.uint8) * 255)
        with open(folder / "points.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("image", "x", "y"), *lines])
    return sum(line[1] != "" for line in lines)


def _reviewed(
    audit: Audit, image_id: str, items: Sequence[Item], decisions: Mapping[str, Decision]
) -> tuple[list[tuple[int, int]], np.ndarray | None]:
    """Return the points and the (H, W) bool mask of one image, None if it has none, as decisions leave them."""
    kinds = {item: decisions[item.name].kind for item in items if item.name in decisions}
    kept = [item for item in items if kinds.get(item) != "reject"]
    points = [item.point for item in kept if item.is_point or item in kinds]
    if image_id not in audit.masks:
        return points, None
    numbers = regions(audit.masks[image_id])
    mask = numbers > 0
    taken = [item for item in kept if kinds.get(item) == "other"]
    needed = {item.region for item in kept if item not in taken}
    gone = {item.region for item in items if item.region} - needed
    mask[np.isin(numbers, list(gone))] = False
    if taken:
        mask |= np.isin(regions(audit.first[image_id]), [item.other for item in taken])
    return points, mask


def described(output: str | os.PathLike) -> str:
    """Return the options of a data set that read the reviewed points and masks of a folder."""
    folder = Path(output).resolve()
    masks = f",masks={folder / 'masks'}" if (folder / "masks").is_dir() else ""
    return f"points={folder / 'points.csv'}{masks}"
