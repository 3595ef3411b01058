"""Videos are read and written by OpenCV, frame by frame."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from d2kit.files import require_utf8

logger = logging.getLogger(__name__)

DEFAULT_RATE = 25.0  # frames per second
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv")


class VideoFrames:
    """The frames of a video, in order; its length is the number of frames that the header says.

    Iteration raises ValueError at its end if there was no frame. A video with fewer frames than its header says gives a
    warning.

    Attributes:
        rate: frames per second, 25 if the file does not say.
    """

    def __init__(self, path: str | os.PathLike, convert: Callable[[np.ndarray], np.ndarray] = lambda frame: frame):
        """
        Args:
            path: file of the video.
            convert: function that is applied to each frame, (H, W, 3) uint8 BGR.

        Raises:
            ValueError: the file cannot be read, or its path is not UTF-8.
        """
        self._path = os.fspath(path)
        self._convert = convert
        self._capture = cv2.VideoCapture(require_utf8(path))
        if not self._capture.isOpened():
            raise ValueError(f"{self._path} cannot be read as a video.")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if rate > 0 else DEFAULT_RATE

    def __len__(self) -> int:
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[np.ndarray]:
        count = 0
        while (frame := self._capture.read()[1]) is not None:
            count += 1
            yield self._convert(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if frame.ndim == 2 else frame)
        if not count:
            raise ValueError(f"{self._path} holds no frame that can be read.")
        if count < len(self):
            logger.warning("%s ends after %d frames; its header says %d.", self._path, count, len(self))


def write_video(path: Path, pictures: Iterable[np.ndarray], rate: float) -> None:
    """Write (H, W, 3) uint8 BGR pictures of one size as MPEG-4; if an error ends the pictures, the video keeps them.

    Raises:
        OSError: OpenCV has no encoder here, or the file cannot be written.
        ValueError: the path is not UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = require_utf8(path.with_name(f".{path.stem}.part{path.suffix}"))
    writer = None
    try:
        for picture in pictures:
            if writer is None:
                size = picture.shape[1::-1]
                writer = cv2.VideoWriter(part, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise OSError(f"cannot write {path}: OpenCV has no encoder for it here.")
            writer.write(picture)
    finally:
        if writer is not None:
            writer.release()
            if os.path.isfile(part):
                os.replace(part, path)
