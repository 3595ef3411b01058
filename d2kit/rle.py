"""Run lengths of COCO's RLE are proved here: pycocotools decodes damaged ones to whatever is in memory."""

from collections.abc import Sequence

import numpy as np

_NO_COUNT = -1  # of a damaged RLE
_NO_RUN = 2**32  # COCO's API keeps runs in 32 bits.
_FIRST = 48  # "0", which stands for 0
_VALUE = 31  # the bits of a character that hold a part of a run
_SIGN = 16  # the bit that makes a run negative in its last character
_MORE = 32  # the bit that says that the run goes on
_LONGEST = 7  # characters of a run


def count_lists(counts: Sequence[list]) -> np.ndarray:
    """Return the pixels (N,) int64 of uncompressed RLEs; -1 where a run is no length."""
    totals = []
    for runs in counts:
        proper = all(type(run) in (int, float) and 0 <= run < _NO_RUN and run == int(run) for run in runs)
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
