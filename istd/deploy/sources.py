"""The files that a detection run reads: images and sequences, also in folders, each with a unique name for results."""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from d2kit.files import require_utf8, unused_name
from istd.data.frames import count_frames, iterate_frames
from istd.data.images import EXTENSIONS, BadImageError, gray_from_file_values

logger = logging.getLogger(__name__)

DEFAULT_RATE = 25.0  # frames per second
DOCUMENT = "detections.json"
LINES = "detections.jsonl"  # It stands for the former until a run ends.
RESULTS = ("masks", "overlays")  # the folders in the output folder of a detection run
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv")


@dataclass(frozen=True)
class Source:
    """A file to read.

    Attributes:
        path: path of the file.
        name: unique name of the file's results: its path below the folder that was given, without extension.
        is_sequence: whether the file holds several frames: a video, or a TIFF file or an array of several images.
    """

    path: Path
    name: str
    is_sequence: bool


def find_sources(
    inputs: Iterable[str | os.PathLike], output: str | os.PathLike
) -> tuple[list[Source], dict[str, str]]:
    """List the images and videos among files and in folders and their subfolders, in order, without hidden files.

    Args:
        inputs: files and folders.
        output: folder of the run; the results that it holds, and those of other runs, are not listed.

    Returns:
        the sources, and the reason for each input that has none.

    Raises:
        ValueError: an input lies in the results, which a run replaces.
    """
    results = {Path(output, name).resolve() for name in RESULTS}
    sources: dict[str, Source] = {}
    refused = {}
    for given in map(Path, inputs):
        if not results.isdisjoint([given.resolve(), *given.resolve().parents]):
            raise ValueError(f"{given} lies in the results of an earlier run: choose another --output.")
        files = _visible_files(given) if given.is_dir() else [given]
        runs = (path.parent for path in files if path.name in (DOCUMENT, LINES))
        others = {Path(run, name).resolve() for run in runs for name in RESULTS}
        known = [
            path
            for path in files
            if path.suffix.lower() in (*EXTENSIONS, *VIDEOS)
            and path.is_file()
            and (results | others).isdisjoint(path.resolve().parents)
        ]
        if not known and given.is_dir():
            refused[str(given)] = f"the folder {given} holds no image and no video."
        elif not known:
            problem = "is neither an image nor a video" if given.exists() else "does not exist"
            refused[str(given)] = f"{given} {problem}."
        for path in known:
            stem = (path.relative_to(given) if given.is_dir() else Path(path.name)).with_suffix("").as_posix()
            name = unused_name(stem, sources)
            is_sequence = path.suffix.lower() in VIDEOS or count_frames(path) > 1
            sources[name] = Source(path, name, is_sequence)
    return list(sources.values()), refused


def _visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder in order, without hidden files and what is in hidden folders."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not any(part[0] == "." for part in path.relative_to(folder).parts))


def open_frames(path: str | os.PathLike, value_range: str) -> tuple[float, Iterator[np.ndarray]]:
    """Open a sequence of frames: a video, a TIFF file of several pages, or an array of several images.

    Args:
        path: file of the sequence.
        value_range: range of raw values, see `read_infrared`.

    Returns:
        the frames per second, 25 if the file does not say, and an iterator of the (H, W) frames, gray values 0..255.

    Raises:
        BadImageError: the file cannot be read. The iterator raises it where a frame cannot be read, or at its end if
            there was none. A video with fewer frames than its header says gives a warning.
    """
    if Path(path).suffix.lower() not in VIDEOS:
        return DEFAULT_RATE, _read_stack(path, value_range)
    capture = cv2.VideoCapture(require_utf8(path))
    if not capture.isOpened():
        raise BadImageError(f"{os.fspath(path)} cannot be read as a video.")
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if rate > 0 else DEFAULT_RATE, _read_video(capture, path)


def _read_video(capture: cv2.VideoCapture, path: str | os.PathLike) -> Iterator[np.ndarray]:
    length = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    count = 0
    while (frame := capture.read()[1]) is not None:
        count += 1
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) if frame.ndim == 3 else frame
    if not count:
        raise BadImageError(f"{os.fspath(path)} holds no frame that can be read.")
    if count < length:
        logger.warning("%s ends after %d frames; its header says %d.", path, count, length)


def _read_stack(path: str | os.PathLike, value_range: str) -> Iterator[np.ndarray]:
    frames = enumerate(iterate_frames(path))
    while True:
        try:
            number, frame = next(frames)
            gray = gray_from_file_values(frame, f"{os.fspath(path)}, frame {number}", value_range)
        except StopIteration:
            return
        except Exception as error:  # Decoders raise many types on damaged bytes.
            raise BadImageError(f"{os.fspath(path)} cannot be read ({error or type(error).__name__}).") from error
        yield gray
