"""RLE of COCO annotations are checked here before anything decodes them."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import pycocotools.mask as mask_util

from d2kit.faults import Faults
from d2kit.rle import count_lists, count_strings


def name_of(annotation: dict) -> str:
    """Return how messages call an annotation."""
    return f"annotation {annotation.get('id', '(no id)')}"


def numbers_in(value: object) -> Iterator[float]:
    """Yield the numbers of nested lists; text is read as a number, and what is none is NaN."""
    if isinstance(value, list):
        yield from chain.from_iterable(map(numbers_in, value))
    elif isinstance(value, dict) and {"x", "y"} <= value.keys():
        yield from numbers_in([value["x"], value["y"]])
    else:
        try:
            yield float(value)
        except (TypeError, ValueError, OverflowError):
            yield math.nan


def check_rle(annotations: Sequence[dict], sides: np.ndarray, faults: Faults) -> np.ndarray:
    """Check annotations whose segmentations are RLE, and return (N, 4) x0, y0, x1, y1; NaN where one is left out."""
    extents = np.full((len(annotations), 4), np.nan)
    sizes = sides[:, ::-1].astype(np.int64).tolist()
    fitting = []
    for number, (annotation, size) in enumerate(zip(annotations, sizes, strict=True)):
        rle = annotation["segmentation"]
        numbers = list(numbers_in(rle["size"]))
        if numbers != size:
            told = f"{name_of(annotation)} has an RLE of size {rle['size']}, but its image is {size}"
            faults.error("RLE of another size than their images", told)
        elif isinstance(rle["counts"], (list, str)):
            rle["size"] = size
            fitting.append(number)
        else:
            faults.error(
                "damaged RLE", f"{name_of(annotation)} has a damaged RLE: its counts are neither list nor text"
            )
    for form, count in ((list, count_lists), (str, count_strings)):
        chosen = [number for number in fitting if isinstance(annotations[number]["segmentation"]["counts"], form)]
        pixels = count([annotations[number]["segmentation"]["counts"] for number in chosen])
        good = []
        for number, total in zip(chosen, pixels.tolist(), strict=True):
            wanted = math.prod(sizes[number])
            if total == wanted:
                good.append(number)
                continue
            what = "runs that are no lengths" if total < 0 else f"{total} pixels, but its image has {wanted}"
            faults.error("damaged RLE", f"{name_of(annotations[number])} has an RLE of {what}: a damaged RLE")
        for number in good:
            rle = annotations[number]["segmentation"]
            if form is list and any(type(run) is float for run in rle["counts"]):
                rle["counts"] = [int(run) for run in rle["counts"]]
            x, y, width, height = rle_box(rle)
            if width * height > 0:
                extents[number] = x, y, x + width, y + height
            else:
                faults.warning("objects with an empty mask, skipped", name_of(annotations[number]))
    return extents


def rle_box(rle: dict) -> list[float]:
    """Return x, y, width, height in pixels of a proved RLE."""
    if isinstance(rle["counts"], list):
        rle = mask_util.frPyObjects(rle, *rle["size"])
    return mask_util.toBbox(rle).tolist()
