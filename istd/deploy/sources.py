"""Sequences of gray frames: videos, TIFF files of several pages, and arrays of several images."""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from d2kit.faults import log_once
from d2kit.videos import DEFAULT_RATE, VIDEOS, VideoFrames
from istd.data.frames import count_frames, frame_path, require_whole, tell_other_pages
from istd.data.images import BadImageError, read_infrared


def open_frames(path: str | os.PathLike, value_range: str) -> tuple[float, Iterable[np.ndarray]]:
    """Open a sequence of frames: a video, a TIFF file of several pages, or an array of several images.

    Args:
        path: file of the sequence.
        value_range: range of raw values, see `read_infrared`.

    Returns:
        the frames per second, 25 if the file does not say, and the (H, W) frames, gray values 0..255.

    Raises:
        ValueError: the file cannot be read. Iteration raises it where a frame cannot be read, or at its end if there
            was none. A video with fewer frames than its header says gives a warning.
    """
    if Path(path).suffix.lower() not in VIDEOS:
        return DEFAULT_RATE, _read_stack(path, value_range)
    video = VideoFrames(path, partial(cv2.cvtColor, code=cv2.COLOR_BGR2GRAY))
    return video.rate, video


def _read_stack(path: str | os.PathLike, value_range: str) -> Iterator[np.ndarray]:
    tell_other_pages(path, log_once)
    for number in range(count_frames(path)):
        yield read_infrared(frame_path(path, number), value_range)
    try:
        require_whole(path)
    except ValueError as error:
        raise BadImageError(str(error)) from error
