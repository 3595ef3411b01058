"""What a detection run reads: images, folders of them, and videos, each with a name of its own for what is written."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from istd.data.images import EXTENSIONS, BadImageError

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv")


@dataclass(frozen=True)
class Source:
    """A file to read.

    Attributes:
        path: the file.
        name: for what is written about it, without extension; unique, with the folders below the one that was named.
        video: whether it is a video.
    """

    path: Path
    name: str
    video: bool


def find_sources(inputs: Iterable[str | os.PathLike]) -> tuple[list[Source], dict[str, str]]:
    """Images and videos behind files and folders (with their subfolders), in order.

    Returns:
        the sources, and for each input that has none the reason.
    """
    sources, refused, names = [], {}, set()
    for given in map(Path, inputs):
        known = [path for path in _files(given) if path.suffix.lower() in (*EXTENSIONS, *VIDEOS)]
        if not known:
            refused[str(given)] = _reason(given)
        for path in known:
            below = path.relative_to(given) if given.is_dir() else Path(path.name)
            name = _unique(below.with_suffix("").as_posix(), names)
            sources.append(Source(path, name, path.suffix.lower() in VIDEOS))
    return sources, refused


def _files(given: Path) -> list[Path]:
    if given.is_dir():
        return sorted(path for path in given.rglob("*") if path.is_file())
    return [given] if given.is_file() else []


def _reason(given: Path) -> str:
    if given.is_dir():
        return f"the folder {given} holds no image and no video."
    return f"{given} is neither an image nor a video." if given.exists() else f"{given} does not exist."


def _unique(name: str, taken: set[str]) -> str:
    chosen, number = name, 1
    while chosen in taken:
        number += 1
        chosen = f"{name}_{number}"
    taken.add(chosen)
    return chosen


class Video:
    """The frames of a video, read one after the other.

    Attributes:
        rate: frames a second, 25 where the file does not say.
        length: frames that the file says it has, 0 where it does not.
    """

    def __init__(self, path: str | os.PathLike):
        """BadImageError names the file when OpenCV cannot open it."""
        self.path = path
        self._capture = cv2.VideoCapture(os.fspath(path))
        if not self._capture.isOpened():
            raise BadImageError(f"{os.fspath(path)} cannot be read as a video.")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if rate > 0 else 25.0
        self.length = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 BGR frames, once; BadImageError when there is none, or when they end before `length`."""
        count = 0
        while (frame := self._capture.read()[1]) is not None:
            count += 1
            yield frame
        self._capture.release()
        if not count or count < self.length:
            raise BadImageError(f"{os.fspath(self.path)} ends after {count} of {self.length} frames.")
