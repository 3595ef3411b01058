"""Images that are the same under different names: by the bytes of their files, or as pictures of another encoding."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from s4m.data.header_cache import read_headers
from s4m.data.images import read_image

_HASHED_BYTES = 64 * 1024
_MOST_PICTURES = 1000  # that are decoded, about 10 ms each
_BLOCK = 8  # pixels a side, of which JPEG keeps the mean
_MOST_BLOCKS = 64  # along a side
_TOLERANCE = 4.0  # gray levels, which JPEG of quality 60 keeps in the blocks of photographs
_SHARE_OF_CONTRAST = 0.25  # The tolerance is at most this share of the blocks' standard deviation.
_LEAST_CONTRAST = 2.0  # gray levels; blank and almost black pictures with less look alike

logger = logging.getLogger(__name__)


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(_HASHED_BYTES), digest_size=16).digest()


def _group(paths: Iterable[str], key: Callable[[str], object]) -> dict[object, list[str]]:
    groups = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups


def find_copies(first: Iterable[str], second: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs (a, b) of files of the two sets that hold the same bytes, ordered by a and then by b.

    Files of equal size are compared by their first 64 KiB, which tell images apart. A path that is in both sets makes
    a pair as well. All files must exist.
    """
    first_by_size = _group(set(first), os.path.getsize)
    second_by_size = _group(set(second), os.path.getsize)
    pairs = []
    for size in first_by_size.keys() & second_by_size.keys():
        first_by_digest = _group(first_by_size[size], _digest)
        pairs += [(path, copy) for copy in second_by_size[size] for path in first_by_digest.get(_digest(copy), ())]
    return sorted(pairs)


def _blocks(path: str) -> np.ndarray | None:
    """Return the mean gray values of the blocks of a picture as it is shown; None if it is blank or unreadable."""
    try:
        gray = cv2.cvtColor(read_image(path, "RGB"), cv2.COLOR_RGB2GRAY).astype(np.float32)
    except (ValueError, OSError):
        return None
    size = [min(max(side // _BLOCK, 1), _MOST_BLOCKS) for side in gray.shape[::-1]]
    blocks = cv2.resize(gray, size, interpolation=cv2.INTER_AREA).ravel()
    return blocks if blocks.std() >= _LEAST_CONTRAST else None


def find_reencoded(first: Iterable[str], second: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs (a, b) of images of the two sets that show the same picture, ordered by a and then by b.

    Pictures of equal size as they are shown are the same if the mean gray values of all their blocks are: those of
    another format, compression or EXIF orientation, but no others of a video or of a blank scene. Only images whose
    size is in both sets are decoded; above _MOST_PICTURES of them nothing is compared, and the log says so.
    """
    groups = [defaultdict(list), defaultdict(list)]
    for group, paths in zip(groups, (set(first), set(second)), strict=True):
        for path, header in read_headers(paths).items():
            if not header.problem:
                group[header.size].append(path)
    sizes = groups[0].keys() & groups[1].keys()
    count = sum(len(group[size]) for group in groups for size in sizes)
    if count > _MOST_PICTURES:
        logger.info("%d images of equal sizes are compared by the bytes of their files only.", count)
        return []
    pairs = []
    for size in sizes:
        known = {path: blocks for path in groups[0][size] if (blocks := _blocks(path)) is not None}
        stack = np.array(list(known.values()))
        for copy in groups[1][size] if known else ():
            blocks = _blocks(copy)
            if blocks is not None:
                near = np.abs(stack - blocks).max(1) <= min(_TOLERANCE, _SHARE_OF_CONTRAST * float(blocks.std()))
                pairs += [(path, copy) for path, same in zip(known, near, strict=True) if same]
    return sorted(pairs)
