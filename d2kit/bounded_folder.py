"""A folder that keeps one file for each key, is shared by processes and is bounded in bytes."""

import hashlib
import logging
import os
import time
from pathlib import Path

from detectron2.utils import comm

from d2kit.files import atomic_write

logger = logging.getLogger(__name__)

_CHECKSUM_BYTES = 16
_STALE_SECONDS = 3600.0  # A temporary file of this age was left by a killed process.
_SHARE = 8  # A process measures the folder again after it has filled one eighth of its share of the free room.
_GIB = 2**30


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()


class BoundedFolder:
    """Contents by key, each in a file of its own; when the folder is full nothing more is written, and nothing leaves.

    Training reads every content once an epoch. An LRU cache never hits under such cyclic access, so the first contents
    stay instead: with room for 300 of 1,000 contents, 30 % of the reads of each epoch hit. Each file carries a
    checksum and counts as absent when it is damaged. A full or read-only folder gives one warning; reading goes on.

    The processes of one training exceed the bound by at most an eighth of it; each concurrent training adds as much.
    """

    def __init__(self, folder: str | os.PathLike, max_gib: float, suffix: str, *, key: str, expected: int = 0):
        """
        Args:
            folder: the folder, made at the first write.
            max_gib: the bound in GiB, positive.
            suffix: the ending of the file names.
            key: the configuration key of the folder, for messages; the key of the bound ends in _GIB.
            expected: the number of contents of a whole training, for the warning; 0 if it is unknown.

        Raises:
            ValueError: the bound is not positive.
        """
        if max_gib <= 0:
            raise ValueError(f"{key}_GIB must be positive, but is {max_gib}.")
        self.folder = Path(folder)
        self.max_bytes = int(max_gib * _GIB)
        self._suffix = suffix
        self._key = key
        self._expected = expected
        self._writable = True
        self._measure()

    def read(self, key: str) -> bytes | None:
        """Return the content of a key, or None if it is absent or damaged."""
        try:
            stored = self._path(key).read_bytes()
        except OSError:
            return None
        content = stored[_CHECKSUM_BYTES:]
        return content if _checksum(content) == stored[:_CHECKSUM_BYTES] else None

    def write(self, key: str, content: bytes) -> None:
        """Keep a content if it fits and the folder can be written."""
        size = len(content) + _CHECKSUM_BYTES
        if not self._writable or not self._has_room(size):
            return
        try:
            with atomic_write(self._path(key)) as file:
                file.write(_checksum(content) + content)
        except OSError as error:
            self._writable = False
            logger.warning("%s: %s; nothing more is written to the folder.", self._key, error)
        else:
            self._written += size

    def _path(self, key: str) -> Path:
        name = _checksum(key.encode(errors="surrogatepass")).hex()
        return self.folder / name[:2] / f"{name}{self._suffix}"

    def _has_room(self, size: int) -> bool:
        """Return whether a file of `size` bytes fits; the first that does not fit ends the writing with a warning."""
        if self._written + size > (self.max_bytes - self._measured) / (_SHARE * comm.get_world_size()):
            self._measure()
        self._writable = self._measured + self._written + size <= self.max_bytes
        if not self._writable:
            need = f" All {self._expected} need about {self._expected * size / _GIB:.3g} GiB." if self._expected else ""
            message = "The folder '%s' of %s is full (%s_GIB is %.3g); what it does not hold is computed each time.%s"
            logger.warning(message, self.folder, self._key, self._key, self.max_bytes / _GIB, need)
        return self._writable

    def _measure(self) -> None:
        """Measure the folder and delete the temporary files of killed processes."""
        self._measured = 0  # The number of bytes in the folder.
        self._written = 0  # The number of bytes that this process has written since it measured the folder.
        for path in self.folder.glob("??/*"):
            try:
                state = path.stat()
                if path.suffix == self._suffix:
                    self._measured += state.st_size
                elif path.suffix == ".tmp" and time.time() - state.st_mtime > _STALE_SECONDS:
                    path.unlink()
            except OSError:
                continue  # Another process was faster, or the folder can only be read.
