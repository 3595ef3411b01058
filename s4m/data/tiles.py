"""Images of a COCO json are cut into tiles, for networks whose objects must not be small against the image."""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from d2kit.coco_masks import decode_segmentation, encode_mask
from d2kit.faults import Faults
from d2kit.files import atomic_write, inside, read_picture, require_apart, unused_name, write_png
from s4m.data.coco import validate_coco
from s4m.data.images import read_header, read_stored, size_problem_of, tell_orientation, turn


def tile_bounds(length: int, tile: int) -> list[tuple[int, int]]:
    """Cut a side into the fewest pieces of nearly equal size.

    For example, 10 pixels and tiles of at most 4 give three pieces, whose edges are the rounded values of 0, 3.3, 6.7
    and 10: (0, 3), (3, 7), (7, 10).

    Args:
        length: length of the side in pixels.
        tile: greatest length of a piece in pixels.

    Returns:
        (first pixel, one past the last pixel) of each piece, in order.
    """
    edges = np.linspace(0, length, -(-length // tile) + 1).round().astype(int).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))


def cut_annotation(annotation: dict, mask: np.ndarray, box: tuple[int, int, int, int], min_share: float) -> dict | None:
    """Return the part of an annotation in a tile.

    Args:
        annotation: COCO annotation of the whole image.
        mask: (H, W) uint8 mask of the annotation.
        box: x0, y0, x1, y1 of the tile in pixels of the image, x1 and y1 exclusive.
        min_share: least share of the object's pixels; a smaller part becomes a crowd region, which counts neither as an
            object nor as background.

    Returns:
        the annotation in the frame of the tile, with a compressed RLE; None if the tile has no pixel of the object.
    """
    x0, y0, x1, y1 = box
    if not mask[y0:y1, x0:x1].any():
        return None
    part = encode_mask(mask[y0:y1, x0:x1])
    crowd = annotation.get("iscrowd", 0) or int(part["area"] < min_share * mask.sum())
    return {**annotation, **part, "iscrowd": crowd}


def cut_annotations(
    annotations: list[dict],
    size: tuple[int, int],
    boxes: list[tuple[tuple[int, int], tuple[int, int]]],
    min_share: float,
) -> list[list[dict]]:
    """Return the parts of an image's annotations in each tile; one mask at a time is in memory.

    Args:
        annotations: COCO annotations of the whole image.
        size: (H, W) of the image.
        boxes: ((y0, y1), (x0, x1)) of each tile in pixels of the image, y1 and x1 exclusive.
        min_share: see `cut_annotation`.
    """
    parts: list[list[dict]] = [[] for _ in boxes]
    for annotation in annotations:
        mask = decode_segmentation(annotation["segmentation"], *size)
        for tile_parts, ((y0, y1), (x0, x1)) in zip(parts, boxes, strict=True):
            part = cut_annotation(annotation, mask, (x0, y0, x1, y1), min_share)
            if part is not None:
                tile_parts.append(part)
    return parts


def write_tiles(
    source: str | os.PathLike, images: str | os.PathLike, output: str | os.PathLike, tile: int, min_share: float = 0.2
) -> Path:
    """Cut all images of a COCO json into tiles; every pixel of an image is in exactly one tile.

    A tile is named after its image, with `_y<first row>_x<first column>` added, and has the image's id as `source_id`.
    Where a.png and a.bmp are both images, the tiles of the second are named after a_2.

    Args:
        source: path of the json.
        images: folder of the json's images.
        output: folder for `images/` and `annotations.json`, which is written last.
        tile: greatest side of a tile in pixels.
        min_share: least share of an object's pixels in a tile; see `cut_annotation`.

    Returns:
        path of the written json.

    Raises:
        FileNotFoundError: the json or an image is absent.
        ValueError: `tile` is not positive, files of the source could be replaced, `validate_coco` refuses the json, an
            image is damaged or has another size than the json says, or a tile's path leads out of `output`.
    """
    _check(Path(source), Path(images), Path(output), tile)
    data = validate_coco(source, images)
    faults = Faults(f"'{source}'")
    by_image: dict[int, list[dict]] = {image["id"]: [] for image in data["images"]}
    for annotation in data.get("annotations", ()):
        by_image[annotation["image_id"]].append(annotation)
    records = []
    annotations = []
    for image, stem in zip(data["images"], _stems(data["images"]), strict=True):
        height, width = image["height"], image["width"]
        pixels = _read(Path(images, image["file_name"]), height, width, faults)
        boxes = list(itertools.product(tile_bounds(height, tile), tile_bounds(width, tile)))
        parts = cut_annotations(by_image[image["id"]], (height, width), boxes, min_share)
        for ((y0, y1), (x0, x1)), tile_parts in zip(boxes, parts, strict=True):
            name = f"{stem}_y{y0}_x{x0}.png"
            write_png(inside(Path(output, "images"), name), pixels[y0:y1, x0:x1])
            size = {"height": y1 - y0, "width": x1 - x0, "source_id": image["id"]}
            records.append({**image, **size, "id": len(records) + 1, "file_name": Path(name).as_posix()})
            for part in tile_parts:
                annotations.append({**part, "id": len(annotations) + 1, "image_id": len(records)})
    path = Path(output, "annotations.json")
    with atomic_write(path, "w") as file:
        json.dump({**data, "images": records, "annotations": annotations}, file)
    faults.log()
    return path


def _check(source: Path, images: Path, output: Path, tile: int) -> None:
    if tile < 1:
        raise ValueError(f"tiles of {tile} pixels: there must be at least one")
    require_apart(output / "images", images)
    if output.resolve() in (source.parent.resolve(), source.resolve().parent):  # The json may be a symbolic link.
        raise ValueError(f"'{output}' holds the json to be cut: choose another output.")


def _stems(images: Sequence[dict]) -> list[str]:
    """Return the unique path of each image without its extension."""
    stems: dict[str, None] = {}
    for image in images:
        stems[unused_name(os.path.splitext(os.path.normpath(image["file_name"]))[0], stems)] = None
    return list(stems)


def _read(path: Path, height: int, width: int, faults: Faults) -> np.ndarray:
    """Return the pixels as the image is shown, with all channels and bits; `faults` gets its EXIF orientation."""
    header = read_header(path)
    if header.orientation > 1 and path.suffix.lower() in (".tif", ".tiff"):
        pixels = read_stored(str(path))  # OpenCV turns some of these, and fails for others.
        pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    else:
        pixels = read_picture(path, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError(f"'{path}' cannot be read as an image")
    pixels = turn(pixels, header.orientation)
    problem = size_problem_of(path, header._replace(size=pixels.shape[:2]), (height, width))
    if problem:
        raise ValueError(problem)
    tell_orientation(path, header, faults)
    return np.ascontiguousarray(pixels)
