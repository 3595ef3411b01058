"""Files by key in one folder that processes share, bounded in bytes."""

import hashlib
import logging
import os
import time
from pathlib import Path

from d2kit.files import atomic_write

logger = logging.getLogger(__name__)

_DIGEST = 16  # bytes of the checksum that precedes the content
_STALE_SECONDS = 3600.0  # a temporary file of this age was left by a killed process
_SHARE = 8  # a process measures the folder again after it has filled one eighth of its share of the free room
_GIB = 2**30


class BoundedFolder:
    """Contents by key, each in a file of its own; when the folder is full nothing more is written, and nothing leaves.

    Training reads every content once an epoch. An LRU cache never hits under such cyclic access, so the first contents
    stay instead: with room for 300 of 1,000 contents, 30 % of the reads of each epoch hit. Each file carries a
    checksum and counts as absent when it is damaged. A full or read-only folder gives one warning; reading goes on.

    The processes of one training exceed the bound by at most an eighth of it; each concurrent training adds as much.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        max_gib: float,
        suffix: str,
        *,
        names: tuple[str, str],
        processes: int = 1,
        expected: int = 0,
    ):
        """
        Args:
            folder: the folder, made at the first write.
            max_gib: bound in GiB, positive.
            suffix: ending of the file names.
            names: configuration keys of the folder and of the bound, for messages.
            processes: number of processes of this training that write.
            expected: number of contents of a whole training, for the warning; 0 if it is unknown.

        Raises:
            ValueError: the bound is not positive.
        """
        if max_gib <= 0:
            raise ValueError(f"{names[1]} must be positive, but is {max_gib}.")
        self.folder = Path(folder)
        self.max_bytes = int(max_gib * _GIB)
        self._suffix = suffix
        self._names = names
        self._processes = processes
        self._expected = expected
        self._writable = True
        self._scan()

    def read(self, key: str) -> bytes | None:
        """Return the content of a key, or None if it is absent or damaged."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        if hashlib.blake2b(content[_DIGEST:], digest_size=_DIGEST).digest() != content[:_DIGEST]:
            return None
        return content[_DIGEST:]

    def write(self, key: str, content: bytes) -> None:
        """Keep a content if it fits and the folder can be written."""
        size = len(content) + _DIGEST
        if not self._writable or not self._has_room(size):
            return
        try:
            with atomic_write(self._path(key)) as file:
                file.write(hashlib.blake2b(content, digest_size=_DIGEST).digest() + content)
        except OSError as error:
            self._writable = False
            logger.warning("%s: %s; going on without writing to it.", self._names[0], error)
            return
        self._own += size

    def _path(self, key: str) -> Path:
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}{self._suffix}"

    def _has_room(self, size: int) -> bool:
        """Tell whether a file of `size` bytes fits; the first that does not ends the writing with a warning."""
        if self._own + size > (self.max_bytes - self._measured) / (_SHARE * self._processes):
            self._scan()
        if self._measured + self._own + size <= self.max_bytes:
            return True
        self._writable = False
        needed = f" All {self._expected} need about {self._expected * size / _GIB:.3g} GiB." if self._expected else ""
        logger.warning(
            "%s: '%s' is full (%s is %.3g); what it does not hold is computed each time.%s",
            self._names[0],
            self.folder,
            self._names[1],
            self.max_bytes / _GIB,
            needed,
        )
        return False

    def _scan(self) -> None:
        """Measure the folder and delete the temporary files of killed processes."""
        self._measured = 0  # bytes in the folder
        self._own = 0  # bytes that this process has written since it measured the folder
        for path in self.folder.glob("??/*"):
            try:
                state = path.stat()
                if path.name.startswith(".") and path.name.endswith(".tmp"):
                    if time.time() - state.st_mtime > _STALE_SECONDS:
                        path.unlink()
                elif path.suffix == self._suffix:
                    self._measured += state.st_size
            except OSError:
                continue  # another process was faster, or the folder can only be read
