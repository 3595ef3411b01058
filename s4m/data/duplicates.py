"""Files with the same content under different names."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable

_HASHED_BYTES = 64 * 1024


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(_HASHED_BYTES), digest_size=16).digest()


def _by_size(paths: Iterable[str]) -> dict[int, list[str]]:
    groups = defaultdict(list)
    for path in paths:
        groups[os.path.getsize(path)].append(path)
    return groups


def find_copies(first: Iterable[str], second: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs (a, b) of files of the two sets that hold the same bytes, ordered by a then b.

    Sizes are compared first; where they are equal, the first 64 KiB, which tell images apart. The same path in both
    sets makes a pair as well. All files must exist.
    """
    groups, others = _by_size(set(first)), _by_size(set(second))
    pairs = []
    for size in groups.keys() & others.keys():
        digests = defaultdict(list)
        for path in groups[size]:
            digests[_digest(path)].append(path)
        for other in others[size]:
            pairs += [(path, other) for path in digests.get(_digest(other), ())]
    return sorted(pairs)
