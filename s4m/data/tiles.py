"""Images of a COCO json cut into tiles, for networks whose objects must not be small against the image."""

import json
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from d2kit.coco_masks import decode_segmentation, encode_mask
from d2kit.files import atomic_write, write_png
from s4m.data.coco import validate_coco


def tile_bounds(length: int, tile: int) -> list[tuple[int, int]]:
    """The fewest pieces of nearly equal size that cover a side once.

    Args:
        length: of the side in pixels.
        tile: most pixels of a piece.

    Returns:
        (first, one past the last) pixel of each, in order.
    """
    edges = np.linspace(0, length, -(-length // tile) + 1).round().astype(int).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))


def tile_boxes(height: int, width: int, tile: int) -> list[tuple[int, int, int, int]]:
    """x0, y0, x1, y1 of an image's tiles, row by row; x1 and y1 exclusive."""
    columns = tile_bounds(width, tile)
    return [(x0, y0, x1, y1) for y0, y1 in tile_bounds(height, tile) for x0, x1 in columns]


def _mask(annotation: dict, height: int, width: int) -> np.ndarray:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = [part for part in segmentation if len(part) >= 6]  # what has fewer than 3 points is no polygon
    return decode_segmentation(segmentation, height, width)


def cut_annotation(annotation: dict, mask: np.ndarray, box: tuple[int, int, int, int], min_share: float) -> dict | None:
    """The part of an annotation in a tile.

    Args:
        annotation: COCO's, of the whole image.
        mask: (H, W) uint8, its mask.
        box: x0, y0, x1, y1 of the tile in pixels of the image, x1 and y1 exclusive.
        min_share: least share of the object's pixels; what has less becomes a crowd region, which neither counts as an
            object nor as background.

    Returns:
        the annotation in the frame of the tile, its segmentation a compressed RLE; None if the tile has no pixel of it.
    """
    x0, y0, x1, y1 = box
    if not mask[y0:y1, x0:x1].any():
        return None
    part = encode_mask(mask[y0:y1, x0:x1])
    crowd = annotation.get("iscrowd", 0) or int(part["area"] < min_share * mask.sum())
    return {**annotation, **part, "iscrowd": crowd}


def write_tiles(
    source: str | os.PathLike, images: str | os.PathLike, output: str | os.PathLike, tile: int, min_share: float = 0.2
) -> Path:
    """Cut all images of a COCO json into tiles.

    Args:
        source: the json.
        images: folder of its images.
        output: folder for `images/` and `annotations.json`, which is written last.
        tile: most pixels of a tile's side; every pixel of an image is in exactly one tile.
        min_share: as in `cut_annotation`.

    Returns:
        path of the json. Names of tiles are those of the images with `_y<first row>_x<first column>`; an image of the
        json has `source_id`, the id of the image it is of, besides.

    Raises:
        FileNotFoundError: the json or an image is absent.
        ValueError: a bound that is not positive, a json that `validate_coco` refuses, or an image that is damaged or
            not of the size that the json says.
    """
    if tile < 1:
        raise ValueError(f"tiles of {tile} pixels: there must be at least one")
    data = validate_coco(source, images)
    of_image: dict[int, list[dict]] = {image["id"]: [] for image in data["images"]}
    for annotation in data.get("annotations", ()):
        of_image[annotation["image_id"]].append(annotation)
    records, annotations = [], []
    for image in data["images"]:
        pixels = _read(Path(images, image["file_name"]), image)
        masks = [_mask(a, image["height"], image["width"]) for a in of_image[image["id"]]]
        for box in tile_boxes(image["height"], image["width"], tile):
            x0, y0, x1, y1 = box
            name = Path(image["file_name"])
            name = name.with_name(f"{name.stem}_y{y0}_x{x0}.png")
            write_png(Path(output, "images", name), pixels[y0:y1, x0:x1])
            size = {"height": y1 - y0, "width": x1 - x0, "source_id": image["id"]}
            records.append({**image, **size, "id": len(records) + 1, "file_name": name.as_posix()})
            parts = map(partial(cut_annotation, box=box, min_share=min_share), of_image[image["id"]], masks)
            for part in filter(None, parts):
                annotations.append({**part, "id": len(annotations) + 1, "image_id": len(records)})
    path = Path(output, "annotations.json")
    with atomic_write(path) as file:
        file.write(json.dumps({**data, "images": records, "annotations": annotations}).encode())
    return path


def _read(path: Path, image: dict) -> np.ndarray:
    """The stored pixels, with all channels and bits."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"'{path}' cannot be read as an image")
    if pixels.shape[:2] != (image["height"], image["width"]):
        raise ValueError(
            f"'{path}' is {pixels.shape[1]}x{pixels.shape[0]}, but its json says {image['width']}x{image['height']}"
        )
    return pixels
