"""Labels in COCO format are written for Label Studio (brush masks) and as a data set of YOLO (polygons).

CVAT and FiftyOne read the COCO json of `s4m label` as it is, with its RLE.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
import yaml

from d2kit.coco_masks import decode_segmentation
from d2kit.files import atomic_write, inside, require_apart
from s4m.data.coco import validate_coco

URL_PREFIX = "/data/local-files/?d="  # Label Studio's address of files in its local storage
# Label Studio's runs: a run's length is written in as many bits as the first of these sizes that holds it.
_RUN_BITS = (4, 8, 12, 16)
_WORD_BITS = 8
_CHANNELS = 4  # A mask is written as an image of red, green, blue and alpha.


def to_brush_rle(mask: np.ndarray) -> list[int]:
    """Encode a mask (H, W) bool as the bytes of Label Studio's brush.

    The format is thi.ng's rle-pack, of bits with the highest first: 32 bits for the number of values, 5 for the bits of
    a value less 1, and four times 4 for the sizes of a length less 1. Then each run has a bit 1, 2 bits that choose the
    size, its length less 1, and its value. The values are 0 or 255, once for each channel of a pixel, row by row.
    """
    values = np.repeat(np.asarray(mask, bool).ravel(), _CHANNELS)
    starts = np.flatnonzero(np.diff(values, prepend=~values[:1]))
    bits = [f"{len(values):032b}{_WORD_BITS - 1:05b}", *(f"{size - 1:04b}" for size in _RUN_BITS)]
    longest = 1 << _RUN_BITS[-1]
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        value = f"{255 * int(values[start]):0{_WORD_BITS}b}"
        for begin in range(start, end, longest):
            length = min(end - begin, longest) - 1
            index = next(i for i, size in enumerate(_RUN_BITS) if length < 1 << size)
            bits.append(f"1{index:02b}{length:0{_RUN_BITS[index]}b}{value}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def to_polygon(mask: np.ndarray) -> np.ndarray:
    """Return one closed polygon (P, 2) of x, y pixel indices, P >= 3, for a mask (H, W) bool that is not empty.

    The parts of a mask and the outlines of its holes are joined by bridges without width at their nearest corners, so
    that an even-odd filling (`cv2.fillPoly`) gives the mask and the pixels of the bridges.
    """
    contours, _ = cv2.findContours(np.asarray(mask, np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    ring, *rest = sorted((contour[:, 0].astype(np.int64) for contour in contours), key=len, reverse=True)
    for other in rest:
        distances = ((ring[:, None] - other[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        turned = np.roll(other, -there, axis=0)
        ring = np.concatenate([ring[: here + 1], turned, turned[:1], ring[here:]])
    return ring if len(ring) >= 3 else np.resize(ring, (3, 2))


def _by_image(data: dict) -> Iterator[tuple[dict, list[tuple[dict, np.ndarray]]]]:
    """Yield each image with its objects, which are no crowds, and their masks."""
    groups = defaultdict(list)
    for annotation in data.get("annotations", ()):
        if not annotation.get("iscrowd", 0):
            groups[annotation["image_id"]].append(annotation)
    for image in data["images"]:
        size = image["height"], image["width"]
        yield image, [(own, decode_segmentation(own["segmentation"], *size) > 0) for own in groups[image["id"]]]


def write_yolo(labels: str | os.PathLike, images: str | os.PathLike, output: str | os.PathLike) -> Path:
    """Write a COCO json as a data set of YOLO for segmentation: data.yaml, labels/NAME.txt, and images as a link.

    A line of a text file is `class x y x y ...`, with pixel centers as fractions of the image's sides; see
    `to_polygon`. Images without an object get an empty file.

    Returns:
        the path of data.yaml.

    Raises:
        FileNotFoundError, OSError, ValueError: the json, its images or the output do not fit.
    """
    require_apart(output, images)
    data = validate_coco(labels, images)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    link = output / "images"
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise ValueError(f"'{link}' is of another origin, and a link is to stand there: choose another --output.")
    link.symlink_to(Path(images).resolve(), target_is_directory=True)
    categories = sorted(data.get("categories", ()), key=lambda category: category["id"])
    index = {category["id"]: number for number, category in enumerate(categories)}
    for image, objects in _by_image(data):
        side = np.array([image["width"], image["height"]])
        lines = []
        for annotation, mask in objects:
            points = ((to_polygon(mask) + 0.5) / side).ravel()
            lines.append(f"{index[annotation['category_id']]} " + " ".join(f"{value:.6g}" for value in points) + "\n")
        name = Path(image["file_name"]).with_suffix(".txt")
        with atomic_write(inside(output, Path("labels", name)), "w") as file:
            file.writelines(lines)
    path = output / "data.yaml"
    names = {number: category["name"] for number, category in enumerate(categories)}
    with atomic_write(path, "w") as file:
        yaml.safe_dump({"train": "images", "val": "images", "names": names}, file, sort_keys=False, allow_unicode=True)
    return path


def write_label_studio(
    labels: str | os.PathLike, images: str | os.PathLike, output: str | os.PathLike, prefix: str = URL_PREFIX
) -> Path:
    """Write a COCO json as tasks of Label Studio, tasks.json, whose brush masks are predictions; and its config.xml.

    Args:
        labels: the COCO json.
        images: folder of its images.
        output: folder to write.
        prefix: what stands before an image's name in its address.

    Returns:
        the path of tasks.json.

    Raises:
        FileNotFoundError, OSError, ValueError: the json, its images or the output do not fit.
    """
    data = validate_coco(labels, images)
    names = {category["id"]: category["name"] for category in data.get("categories", ())}
    output = Path(output)
    with atomic_write(output / "tasks.json", "w") as file:
        file.write("[")
        for number, (image, objects) in enumerate(_by_image(data)):
            results = [_brush(image, *own, names) for own in objects]
            task = {"data": {"image": prefix + image["file_name"]}}
            task["predictions"] = [{"model_version": "s4m", "result": results}]
            file.write((",\n" if number else "\n") + json.dumps(task, separators=(",", ":")))
        file.write("]\n")
    rows = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names.values())
    with atomic_write(output / "config.xml", "w") as file:
        file.write('<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="tag" toName="image">\n')
        file.write(f"{rows}  </BrushLabels>\n</View>\n")
    return output / "tasks.json"


def _brush(image: dict, annotation: dict, mask: np.ndarray, names: dict[int, str]) -> dict:
    """Return a result of Label Studio for one object."""
    value = {"format": "rle", "rle": to_brush_rle(mask), "brushlabels": [names[annotation["category_id"]]]}
    result = {"id": str(annotation["id"]), "type": "brushlabels", "from_name": "tag", "to_name": "image"}
    result |= {"original_width": image["width"], "original_height": image["height"], "image_rotation": 0}
    confidence = annotation.get("confidence")
    return result | {"value": value} | ({} if confidence is None else {"score": confidence})
