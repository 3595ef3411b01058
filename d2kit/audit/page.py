"""A folder of static pages on which a person reviews labels: it opens from the disk, without a server.

The folder holds `index.html`, the style, the script, and the data: `data/index.js` with a few figures of each row, and
`data/chunk_*.js` with the pictures and masks of CHUNK rows each, which the page loads when it shows one of them. Data
are scripts, because a browser reads no other files from a page that is a file itself.
"""

import base64
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np

from d2kit.coco_masks import decode_segmentation, encode_mask
from d2kit.files import whole_folder

CHUNK = 25  # rows of a file of pictures and masks
_SURROUNDINGS = 2.2  # side of a picture by the greatest side of what it shows
_LEAST_SIDE = 48  # pixels of the image that a picture shows
_MOST_SIDE = 320  # pixels of a picture, which is scaled down to them
_QUALITY = 85  # of JPEG
_FILES = {"page.html": "index.html", "page.css": "audit.css", "page.js": "audit.js"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One label, or one object without a label, that a person decides on.

    Attributes:
        name: the name in review.json, distinct among all rows.
        label: index of the class.
        doubt: how much speaks against the label, 0 to 1; the greatest comes first.
        reasons: what speaks against it, in a few words each that rows share.
        box: x0, y0, x1, y1 in pixels.
        mask: RLE of the image's size, the label as it is; None if nobody labeled it, or if there is only a point.
        other: RLE of the image's size that could take the place of `mask`; None for none.
        point: x, y in pixels (pixel 0 covers 0 to 1), or None.
        facts: further figures by their names.
    """

    name: str
    label: int
    doubt: float
    reasons: Sequence[str]
    box: Sequence[float]
    mask: dict | None = None
    other: dict | None = None
    point: tuple[float, float] | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Picture(NamedTuple):
    """An image of the data set and its rows.

    Attributes:
        name: the image's name for people.
        path: its file.
        pixels: (H, W) gray or (H, W, 3) BGR, uint8.
        labels: RLE of all labels of the image, which are shown thinly around a row's own.
        rows: the rows of the image.
    """

    name: str
    path: Path
    pixels: np.ndarray
    labels: Sequence[dict]
    rows: Sequence[Row]


def require_free(output: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError if the output exists, unless it is an earlier page that may be replaced."""
    if output.exists() and not (overwrite and (output / "data" / "index.js").is_file()):
        advice = "choose another output" if overwrite else "choose another output, or --overwrite"
        raise FileExistsError(f"'{output}' exists: {advice}.")


def write_page(
    output: Path,
    pictures: Iterable[Picture],
    *,
    title: str,
    source: str,
    classes: Sequence[str],
    texts: Mapping[str, str],
    files: Mapping[str, str | os.PathLike] | None = None,
    overwrite: bool = False,
) -> int:
    """Write the folder as a whole or not at all, and return the number of rows.

    Args:
        output: folder to make.
        pictures: images with their rows, one in memory at a time.
        title: heading of the page.
        source: check sum of the labels, which is saved with the decisions.
        classes: names by class index.
        texts: what the page calls `mask` and `other` of a row, and to take the other; keys "mask", "other", "take".
        files: files to copy into the folder, by their names there.
        overwrite: whether to replace an earlier page; another folder is never replaced.

    Raises:
        FileExistsError: the output exists.
    """
    require_free(output, overwrite=overwrite)
    with whole_folder(output) as folder, tempfile.TemporaryFile() as spool:
        for source_name, name in _FILES.items():
            (folder / name).write_bytes(resources.files(__package__).joinpath(source_name).read_bytes())
        for name, path in (files or {}).items():
            shutil.copyfile(path, folder / name)
        # The parts wait on the disk until all are there, because pictures come by image and rows by doubt.
        records = [(picture.name, row, _spooled(spool, row, picture, cover)) for picture, cover, row in _each(pictures)]
        records.sort(key=lambda record: -record[1].doubt)
        reasons = sorted({reason for _, row, _ in records for reason in row.reasons})
        images = {name: number for number, name in enumerate(dict.fromkeys(name for name, _, _ in records))}
        columns: dict[str, list] = {
            "name": [row.name for _, row, _ in records],
            "image": [images[name] for name, _, _ in records],
            "label": [row.label for _, row, _ in records],
            "doubt": [round(row.doubt, 4) for _, row, _ in records],
            "reasons": [[reasons.index(reason) for reason in row.reasons] for _, row, _ in records],
        }
        header = {
            "title": title,
            "source": source,
            "classes": list(classes),
            "reasons": reasons,
            "images": list(images),
        }
        (folder / "data").mkdir()
        _write_script(
            folder / "data" / "index.js", _json(header | {"texts": dict(texts), "chunk": CHUNK, "rows": columns})
        )
        for number, first in enumerate(range(0, len(records), CHUNK)):
            parts = [_read(spool, *place) for _, _, place in records[first : first + CHUNK]]
            _write_script(folder / "data" / f"chunk_{number}.js", f"{number},[{','.join(parts)}]")
    return len(records)


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


def _write_script(path: Path, arguments: str) -> None:
    path.write_text(f"audit.receive({arguments});\n", encoding="ascii")


def _read(spool: IO[bytes], start: int, size: int) -> str:
    spool.seek(start)
    return spool.read(size).decode("ascii")


def _each(pictures: Iterable[Picture]) -> Iterator[tuple[Picture, np.ndarray, Row]]:
    """Yield each row with its picture, and with the (H, W) number of labels that cover each pixel."""
    for picture in pictures:
        cover = np.zeros(picture.pixels.shape[:2], np.uint16)
        for label in picture.labels:
            cover += decode_segmentation(label, *cover.shape)
        for row in picture.rows:
            yield picture, cover, row


def _spooled(spool: IO[bytes], row: Row, picture: Picture, cover: np.ndarray) -> tuple[int, int]:
    """Append what a chunk says of a row to a file; returns where it begins and its length in bytes."""
    left, top, width, height = window(row.box, cover.shape)
    part = np.s_[top : top + height, left : left + width]
    scale = min(1.0, _MOST_SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = cv2.resize(picture.pixels[part], size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    masks = {key: decode_segmentation(rle, *cover.shape)[part] for key, rle in _masks(row)}
    masks["others"] = cover[part] > masks.get("mask", 0)
    told: dict[str, Any] = {key: _small_rle(mask, size) for key, mask in masks.items() if mask.any()}
    if row.point is not None:
        told["point"] = [round((row.point[0] - left) * scale, 2), round((row.point[1] - top) * scale, 2)]
    told |= {"size": size, "facts": dict(row.facts), "file": picture.path.absolute().as_uri()}
    start = spool.tell()
    return start, spool.write(_json(told | {"picture": base64.b64encode(jpeg).decode("ascii")}).encode("ascii"))


def _masks(row: Row) -> Iterator[tuple[str, dict]]:
    """Yield the names and the RLE of the masks that a row has."""
    for key in ("mask", "other"):
        if getattr(row, key) is not None:
            yield key, getattr(row, key)


def _small_rle(mask: np.ndarray, size: tuple[int, int]) -> str:
    """Return the counts of the COCO RLE of a mask that is scaled to (width, height)."""
    scaled = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return encode_mask(scaled)["segmentation"]["counts"]


def window(box: Sequence[float], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, width and height, in pixels, of the surroundings of a box x0, y0, x1, y1 in an (H, W) image.

    They are a square that the image's borders may cut.
    """
    side = max(_LEAST_SIDE, _SURROUNDINGS * max(box[2] - box[0], box[3] - box[1]))
    place = []
    for low, high, length in ((box[0], box[2], shape[1]), (box[1], box[3], shape[0])):
        size = min(length, round(side))
        start = round(min(max((low + high) / 2 - size / 2, 0), length - size))
        place.append((start, size))
    (left, width), (top, height) = place
    return left, top, width, height
