"""Files with the same content under different names."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable

_HASHED_BYTES = 64 * 1024


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
