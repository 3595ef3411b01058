"""Names of images: how data files call an image, and which entry of a table belongs to an image."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from istd.data.images import EXTENSIONS


def image_key(text: str | os.PathLike) -> str:
    """Return the name of an image as its id: its path with forward slashes, without extension.

    Folders stay, so that frames of two sequences differ, and so do other dots. Characters get Unicode's composed form.

    Examples: "a.png" -> "a", "./seq1\\\\0000.png" -> "seq1/0000", "frame.001" -> "frame.001".
    """
    path = PurePosixPath(unicodedata.normalize("NFC", os.fspath(text).strip()).replace("\\", "/"))
    return str(path.with_suffix("")) if path.suffix.lower() in EXTENSIONS else str(path)


def spellings(name: str) -> list[str]:
    """Return a name in Unicode's composed form and, if that differs, in the decomposed form of files from macOS."""
    return list(dict.fromkeys(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))


def check_inside(name: str, source: str | os.PathLike) -> None:
    """Raise ValueError if the name of an image leads out of its folder; the message names `source`."""
    path = name.replace("\\", "/")
    if path.startswith("/") or re.match("[A-Za-z]:/", path) or ".." in path.split("/"):
        raise ValueError(f"{os.fspath(source)} names image '{name}', which leads out of the folder of images.")


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder and its subfolders, sorted, without hidden files."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    return sorted(path for path in files if not path.name.startswith("."))


class NameTable:
    """Finds the keys of a table by the names of images, where either may have more folders in front.

    Args:
        keys: results of `image_key`.
        source: file of the table, for messages.
    """

    def __init__(self, keys: Iterable[str], source: str | os.PathLike):
        self._source = os.fspath(source)
        self._keys = set(keys)
        self._by_end: dict[str, set[str]] = defaultdict(set)
        for key in self._keys:
            parts = key.split("/")
            for start in range(len(parts)):
                self._by_end["/".join(parts[start:])].add(key)

    def find(self, name: str) -> str | None:
        """Return the key that is `name`, or the only one that ends in it after a slash; None if there is none.

        Raises:
            ValueError: several keys end in `name`.
        """
        name = unicodedata.normalize("NFC", name)
        if name in self._keys:
            return name
        ends = self._by_end.get(name, set())
        if len(ends) > 1:
            raise ValueError(f"{self._source}: image '{name}' may be each of {', '.join(sorted(ends)[:3])}.")
        return next(iter(ends), None)
