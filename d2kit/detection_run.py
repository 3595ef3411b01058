"""A detection run, which predicts images and frames of videos and writes overlays and tables of detections."""

import abc
import contextlib
import csv
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from d2kit.files import append_text, atomic_write, inside, whole_lines, write_png
from d2kit.sources import DOCUMENT, LINES, Source
from d2kit.videos import write_video

TABLE = "detections.csv"
HALF_WRITTEN = (".*.????????.tmp", ".*.part.mp4")  # what a killed run leaves of a picture and of a video
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # With these errors every further write fails, too.


class DetectionRun(abc.ABC):
    """Writes overlays and tables of detections into a folder as files are added.

    The folder gets overlays/NAME.png for each image, and overlays/NAME.mp4 for a video NAME.avi or another sequence of
    frames. detections.csv gets the rows, and detections.jsonl the record, of each image or frame when it is done, so a
    killed run keeps them. `close` writes detections.json in the place of detections.jsonl. What an earlier run wrote
    there is removed at the start.

    Attributes:
        RESULTS: folder of each kind of pictures, by the key that names their files in a record.
        COLUMNS: the columns of detections.csv.
        records: a dict for each image or frame: file, frame (None for images), height, width, the paths of its pictures
            below the folder, and what `predict` adds.
        failed: reason for each file that failed.

    Raises:
        OSError: the folder cannot be written.
        ValueError: see `remove_results`.
    """

    RESULTS: dict[str, str]
    COLUMNS: Sequence[str]

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        remove_results(self.folder, self.RESULTS)
        for name in self.RESULTS.values():
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        append_text(self.folder / LINES, "")
        (self.folder / TABLE).unlink(missing_ok=True)
        self._append_rows([self.COLUMNS])
        self.records: list[dict] = []
        self.failed: dict[str, str] = {}

    @abc.abstractmethod
    def read(self, path: Path) -> np.ndarray:
        """Read an image, (H, W) or (H, W, 3)."""

    @abc.abstractmethod
    def open_frames(self, path: Path) -> tuple[float, Iterable[np.ndarray]]:
        """Open a sequence; return the frames per second and frames as those of `read`."""

    @abc.abstractmethod
    def predict(self, pixels: np.ndarray, name: str, record: dict[str, Any]) -> tuple[list[Sequence], np.ndarray]:
        """Predict an image or a frame.

        Args:
            pixels: an image of `read` or a frame of `open_frames`.
            name: name for files of results; it comes from the input.
            record: record of the image, which this function completes.

        Returns:
            the rows of detections.csv without file and frame, and the overlay, (H, W, 3) uint8 BGR.
        """

    @abc.abstractmethod
    def document(self) -> dict[str, Any]:
        """Return the content of detections.json but `failed`; its `images` name their pictures as the records do."""

    def add_all(self, sources: Iterable[Source]) -> int:
        """Predict files with a progress bar, close the run and name what failed on stderr; return the exit status.

        An interrupted run gets its detections.json, too.
        """
        try:
            for source in tqdm(sources, desc="files", unit="file"):
                self.add(source, partial(tqdm, desc=source.name, unit="frame", leave=False))
        finally:
            self.close()
        for file, reason in self.failed.items():
            print(f"left out {file}: {reason}", file=sys.stderr)
        return 1 if self.failed else 0

    def add(self, source: Source, watch: Callable[[Iterable], Iterable] = iter) -> None:
        """Predict a file; `failed` names it if it cannot be read, or only in part.

        Args:
            source: source from `d2kit.sources.find_sources`.
            watch: function that wraps the frames of a sequence, for a progress bar.

        Raises:
            OSError: the disk is full.
        """
        try:
            if source.is_sequence:
                self._add_sequence(source, watch)
            else:
                overlay = f"{self.RESULTS['overlay']}/{source.name}.png"
                picture = self._predict(source, self.read(source.path), source.name, overlay)
                write_png(inside(self.folder, overlay), picture)
        except (OSError, ValueError, RuntimeError, MemoryError, cv2.error) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            self.failed[str(source.path)] = " ".join(str(error).split()) or type(error).__name__

    def _add_sequence(self, source: Source, watch: Callable[[Iterable], Iterable]) -> None:
        rate, frames = self.open_frames(source.path)
        overlay = f"{self.RESULTS['overlay']}/{source.name}.mp4"
        # The folder keeps the extension, because frames taken from clip.mp4 often lie beside it in a folder clip.
        folder = source.name + source.path.suffix
        pictures = (
            self._predict(source, frame, f"{folder}/{number:06}", overlay, number)
            for number, frame in enumerate(watch(frames))
        )
        write_video(inside(self.folder, overlay), pictures, rate)

    def _predict(
        self, source: Source, pixels: np.ndarray, name: str, overlay: str, frame: int | None = None
    ) -> np.ndarray:
        """Predict an image or frame and keep its record; return the overlay."""
        height, width = pixels.shape[:2]
        file_name = source.file_name if frame is None else f"{source.file_name}/{frame:06}"
        record = {"file": str(source.path), "file_name": file_name, "frame": frame}
        record |= {"height": height, "width": width, "overlay": overlay}
        rows, picture = self.predict(pixels, name, record)
        self.records.append(record)
        append_text(self.folder / LINES, json.dumps(record, default=asdict) + "\n")
        self._append_rows([[record["file"], frame, *row] for row in rows])
        return picture

    def close(self) -> None:
        """Write detections.json atomically in the place of detections.jsonl."""
        with atomic_write(self.folder / DOCUMENT, "w") as file:
            json.dump({**self.document(), "failed": self.failed}, file, indent=1, default=asdict)
        (self.folder / LINES).unlink(missing_ok=True)

    def _append_rows(self, rows: Iterable[Sequence]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        append_text(self.folder / TABLE, text.getvalue())


def remove_results(folder: Path, results: dict[str, str]) -> None:
    """Remove what an earlier detection run wrote into a folder, also if it was killed, so that none of its files stays.

    Args:
        folder: output folder.
        results: see `DetectionRun`.

    Raises:
        ValueError: the folder has pictures of another origin, which a run would mix with its own; or its
            detections.json is damaged.
    """
    tables = [path for path in (folder / DOCUMENT, folder / LINES) if path.is_file()]
    folders = [folder / name for name in results.values()]
    if not tables:
        foreign = [path for path in folders if path.is_dir() and any(path.iterdir())]
        if foreign:
            raise ValueError(f"{foreign[0]} exists and no {DOCUMENT} lists its files: choose another --output.")
        return
    listed = {folder / record[key] for path in tables for record in _read_records(path, results) for key in results}
    files = {path for path in listed if any(path.resolve().is_relative_to(result.resolve()) for result in folders)}
    parents = {*folders, *(path.parent for path in files)}
    halves = [path for parent in parents for pattern in HALF_WRITTEN for path in parent.glob(pattern)]
    for path in (*files, *halves, folder / TABLE, *tables):
        path.unlink(missing_ok=True)
    for parent in sorted(parents, reverse=True):
        with contextlib.suppress(OSError):  # Other files stay, and so do their folders.
            parent.rmdir()


def _read_records(table: Path, keys: Iterable[str]) -> list[dict[str, str]]:
    """Return the paths of pictures of the records in a detections.json or detections.jsonl."""
    try:
        if table.name == DOCUMENT:
            records = json.loads(table.read_text(encoding="utf-8"))["images"]
        else:
            records = [json.loads(line) for line in whole_lines(table)]
        return [{key: os.fspath(record[key]) for key in keys} for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{table} is no table of detections ({error}): choose another --output.") from error
