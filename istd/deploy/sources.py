"""The files that a detection run reads: images and videos, also in folders, each with a unique name for its results."""

import itertools
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
        path: path of the file.
        name: unique name of the file's results: its path below the folder that was given, without extension.
        video: whether the file is a video.
    """

    path: Path
    name: str
    video: bool


def find_sources(inputs: Iterable[str | os.PathLike]) -> tuple[list[Source], dict[str, str]]:
    """List the images and videos among files and in folders and their subfolders, in order.

    Returns:
        the sources, and the reason for each input that has none.
    """
    sources: dict[str, Source] = {}
    refused = {}
    for given in map(Path, inputs):
        files = sorted(given.rglob("*")) if given.is_dir() else [given]
        known = [path for path in files if path.suffix.lower() in (*EXTENSIONS, *VIDEOS) and path.is_file()]
        if not known and given.is_dir():
            refused[str(given)] = f"the folder {given} holds no image and no video."
        elif not known:
            problem = "is neither an image nor a video" if given.exists() else "does not exist"
            refused[str(given)] = f"{given} {problem}."
        for path in known:
            stem = (path.relative_to(given) if given.is_dir() else Path(path.name)).with_suffix("").as_posix()
            names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
            name = next(name for name in names if name not in sources)
            sources[name] = Source(path, name, path.suffix.lower() in VIDEOS)
    return list(sources.values()), refused


def open_video(path: str | os.PathLike) -> tuple[float, Iterator[np.ndarray]]:
    """Open a video.

    Returns:
        the frames per second, 25 if the file does not say, and an iterator of the (H, W, 3) uint8 BGR frames.

    Raises:
        BadImageError: OpenCV cannot open the file. The iterator raises it at its end if there was no frame, or if there
            were fewer frames than the file says.
    """
    capture = cv2.VideoCapture(os.fspath(path))
    if not capture.isOpened():
        raise BadImageError(f"{os.fspath(path)} cannot be read as a video.")
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if rate > 0 else 25.0, _read_frames(capture, path)


def _read_frames(capture: cv2.VideoCapture, path: str | os.PathLike) -> Iterator[np.ndarray]:
    length = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    count = 0
    while (frame := capture.read()[1]) is not None:
        count += 1
        yield frame
    if not count or count < length:
        raise BadImageError(f"{os.fspath(path)} ends after {count} of {length} frames.")
