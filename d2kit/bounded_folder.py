"""Files by key in one folder that processes share, bounded in bytes."""

import hashlib
import logging
import os
import time
from pathlib import Path

from d2kit.files import atomic_write

logger = logging.getLogger(__name__)

_DIGEST = 16  # bytes of the checksum before the content
_STALE_SECONDS = 3600.0  # age at which a temporary file is one that a killed process left
_SHARE = 8  # a process looks at the folder again after it has written this part of its share of the room
_GIB = 2**30


class BoundedFolder:
    """Contents by key, each in a file of its own; when the folder is full nothing more is written, and nothing leaves.

    What is asked for in rounds, all of it once a round, would have hardly a hit in a larger set if the longest unused
    left; so the first to come stay, and the share of hits is the share that fits. A file is replaced as a whole or not
    at all, carries a checksum, and counts as absent when it is damaged. A full folder and one that cannot be written
    are one warning each, and reading goes on.

    The processes of one training exceed the bound by at most an eighth of it, and nearly always by less than a file
    each, because the part that they write unseen shrinks with the room; each further training at the same time may
    add as much.
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
            folder: made when something is written.
            max_gib: bound in GiB, positive.
            suffix: of the files.
            names: configuration keys of folder and bound, for messages.
            processes: of this training that write.
            expected: contents that there will be in all, for the warning; 0: unknown.

        Raises:
            ValueError: a bound that is not positive.
        """
        if max_gib <= 0:
            raise ValueError(f"{names[1]} must be positive, but is {max_gib}.")
        self.folder = Path(folder)
        self.max_bytes = int(max_gib * _GIB)
        self._suffix, self._names = suffix, names
        self._processes, self._expected = processes, expected
        self._writable = True
        self._scan()

    def read(self, key: str) -> bytes | None:
        """The content of a key, or None."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        if hashlib.blake2b(content[_DIGEST:], digest_size=_DIGEST).digest() != content[:_DIGEST]:
            return None
        return content[_DIGEST:]

    def write(self, key: str, content: bytes) -> None:
        """Keep a content, where there is room for it and the folder can be written."""
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
        """Whether a file of that many bytes fits; the first that does not ends the writing, with a warning."""
        if self._own + size > (self.max_bytes - self._found) / (_SHARE * self._processes):
            self._scan()
        if self._found + self._own + size <= self.max_bytes:
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
        """Measure the folder, and clear what killed processes left."""
        self._found = self._own = 0  # bytes in the folder, and those written by this process since
        for path in self.folder.glob("??/*"):
            try:
                state = path.stat()
                if path.name.startswith(".") and path.name.endswith(".tmp"):
                    if time.time() - state.st_mtime > _STALE_SECONDS:
                        path.unlink()
                elif path.suffix == self._suffix:
                    self._found += state.st_size
            except OSError:
                continue  # another process was faster, or the folder can only be read
