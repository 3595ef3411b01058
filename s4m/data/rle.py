"""Run lengths of COCO annotations are proved here: pycocotools decodes damaged ones to whatever is in memory."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import pycocotools.mask as mask_util

from s4m.data.faults import Faults

_NO_COUNT = -1  # of a damaged RLE
_FIRST = 48  # "0", which stands for 0
_VALUE = 31  # the bits of a character that hold a part of a run
_SIGN = 16  # the bit that makes a run negative in its last character
_MORE = 32  # the bit that says that the run goes on
_LONGEST = 7  # characters of a run


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


def count_lists(counts: Sequence[list]) -> np.ndarray:
    """Return the pixels (N,) int64 of uncompressed RLEs; -1 where a run is no length."""
    totals = []
    for runs in counts:
        proper = all(type(run) in (int, float) and run >= 0 and run == int(run) for run in runs)
        totals.append(sum(map(int, runs)) if proper else _NO_COUNT)
    return np.array(totals, np.int64)


def count_strings(counts: Sequence[str]) -> np.ndarray:
    """Return the pixels (N,) int64 of compressed RLEs; -1 where the text is no RLE or a run is no length.

    The format is that of COCO's API (`rleToString` in maskApi.c): a run is written in characters of 5 bits, the lowest
    first, each with a bit that says whether more follow; from the fourth run on, the difference to the run before the
    last is written. All texts are decoded together.
    """
    totals = np.zeros(len(counts), np.int64)
    filled = [number for number, text in enumerate(counts) if text]
    if not filled:
        return totals
    codes = [counts[number].encode("ascii", "replace") for number in filled]
    values = np.frombuffer(b"".join(codes), np.uint8).astype(np.int64) - _FIRST
    ends = np.cumsum([len(code) for code in codes])  # one past the last character of each text
    owner = np.repeat(np.arange(len(codes)), np.diff(ends, prepend=0))
    last = (values & _MORE) == 0
    bad = np.zeros(len(codes), bool)
    bad[owner[(values < 0) | (values > _MORE + _VALUE)]] = True
    bad[~last[ends - 1]] = True
    last[ends - 1] = True
    stops = np.flatnonzero(last)
    starts = np.concatenate([[0], stops[:-1] + 1])
    lengths = stops - starts + 1
    bad[owner[starts[lengths > _LONGEST]]] = True
    places = np.minimum(np.arange(len(values)) - np.repeat(starts, lengths), _LONGEST)
    runs = np.add.reduceat((values & _VALUE) << (5 * places), starts)
    negative = (values[stops] & _SIGN) != 0
    runs -= np.where(negative, np.int64(1) << (5 * np.minimum(lengths, _LONGEST)), 0)
    of_text = owner[starts]
    runs = _undo_differences(runs, of_text)
    bad[of_text[runs < 0]] = True
    sums = np.zeros(len(codes), np.int64)
    np.add.at(sums, of_text, runs)
    totals[filled] = np.where(bad, _NO_COUNT, sums)
    return totals


def _undo_differences(runs: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return the runs of texts whose run m, from the fourth on, is written as its difference to run m - 2.

    Args:
        runs: (N,) as written.
        owner: (N,) number of the text of each run, rising.
    """
    first = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1])
    position = np.arange(len(runs)) - np.repeat(first, np.diff(np.append(first, len(runs))))
    # The first run stands alone; the odd ones add up among themselves, and so do the even ones from the third on.
    family = owner * 3 + np.where(position == 0, 0, np.where(position % 2 == 1, 1, 2))
    order = np.argsort(family, kind="stable")
    summed = np.cumsum(runs[order])
    begins = np.flatnonzero(np.diff(family[order], prepend=-1))
    before = np.concatenate([[0], summed])[begins]
    result = np.empty_like(runs)
    result[order] = summed - np.repeat(before, np.diff(np.append(begins, len(runs))))
    return result


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
