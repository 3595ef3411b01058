"""Headers of image files are read once: those of large folders are kept between runs, by file size and time."""

import contextlib
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from iopath.common.file_io import get_cache_dir

from d2kit.files import atomic_write
from s4m.data.images import Header, read_header

_LARGE = 2000  # images of a folder


def _state(path: str) -> list[int]:
    """Return what changes with a file: its size in bytes and its time in nanoseconds."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _cache_file(folder: str) -> Path:
    key = f"{os.path.abspath(folder)} {Header._fields}"  # A cache of other fields is another file.
    name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return Path(get_cache_dir(), "s4m_headers", f"{name}.json")


def _read_large(folder: str, paths: list[str]) -> dict[str, Header]:
    """Read the headers of a large folder, those of unchanged files from iopath's cache folder."""
    cache = _cache_file(folder)
    known = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text(encoding="utf-8"))
    headers = {}
    fresh = {}
    for path in paths:
        name = os.path.basename(path)
        state = _state(path)
        if name in known and known[name][:2] == state:
            _, _, height, width, orientation, deep, frames = known[name]
            headers[path] = Header((height, width), orientation, deep, frames=frames)
        else:
            headers[path] = read_header(path)
        header = headers[path]
        if not header.problem:
            fresh[name] = [*state, *header.size, header.orientation, header.deep, header.frames]
    if fresh != known:
        with contextlib.suppress(OSError), atomic_write(cache, "w") as file:
            json.dump(fresh, file)
    return headers


def read_headers(paths: Iterable[str]) -> dict[str, Header]:
    """Return the headers of existing files by path."""
    by_folder = defaultdict(list)
    for path in dict.fromkeys(paths):
        by_folder[os.path.dirname(path)].append(path)
    headers = {}
    for folder, members in by_folder.items():
        if len(members) < _LARGE:
            headers |= {path: read_header(path) for path in members}
        else:
            headers |= _read_large(folder, members)
    return headers
