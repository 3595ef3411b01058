"""A detection run, which predicts images and frames of videos and writes masks, overlays and a table of detections."""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from d2kit.files import atomic_write, inside, require_utf8, write_png
from istd.data.images import read_infrared
from istd.deploy.detections import COLUMNS, draw_overlay, table_rows
from istd.deploy.predictor import ISTDPredictor
from istd.deploy.sources import DOCUMENT, LINES, RESULTS, Source, open_frames

TABLE = "detections.csv"
HALF_WRITTEN = (".*.????????.tmp", ".*.part.mp4")  # what a killed run leaves of a picture and of a video
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # With these errors every further write fails, too.


class DetectionRun:
    """Writes masks, overlays and tables of detections into a folder as files are added.

    The folder gets masks/NAME.png (0 and 255, at the image's size) and overlays/NAME.png for each image, and
    masks/NAME.avi/000000.png, ... and overlays/NAME.mp4 for a video NAME.avi or another sequence of frames.
    detections.csv gets the rows, and detections.jsonl the record, of each image or frame when it is done, so a killed
    run keeps them. `close` writes detections.json in the place of detections.jsonl. What an earlier run wrote there is
    removed at the start.

    Attributes:
        records: a dict for each image or frame: file, frame (None for images), height, width, mask, overlay (paths
            below the folder) and detections.
        failed: reason for each file that failed.

    Raises:
        OSError: the folder cannot be written.
        ValueError: see `remove_results`.
    """

    def __init__(self, predictor: ISTDPredictor, folder: str | os.PathLike):
        self.predictor = predictor
        self.folder = Path(folder)
        remove_results(self.folder)
        for name in RESULTS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._append(LINES, "")
        (self.folder / TABLE).unlink(missing_ok=True)
        self._append(TABLE, ",".join(COLUMNS) + "\n")
        self.records: list[dict] = []
        self.failed: dict[str, str] = {}

    def add(self, source: Source, watch: Callable[[Iterable], Iterable] = iter) -> None:
        """Predict a file; `failed` names it if it cannot be read, or only in part.

        Args:
            source: source from `find_sources`.
            watch: function that wraps the frames of a sequence, for a progress bar.

        Raises:
            OSError: the disk is full.
        """
        try:
            if source.is_sequence:
                self._add_sequence(source, watch)
            else:
                overlay = f"overlays/{source.name}.png"
                gray = read_infrared(source.path, self.predictor.value_range)
                write_png(inside(self.folder, overlay), self._predict(source, gray, source.name, overlay))
        except (OSError, ValueError, RuntimeError, MemoryError, cv2.error) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            self.failed[str(source.path)] = " ".join(str(error).split()) or type(error).__name__

    def _add_sequence(self, source: Source, watch: Callable[[Iterable], Iterable]) -> None:
        rate, frames = open_frames(source.path, self.predictor.value_range)
        overlay = f"overlays/{source.name}.mp4"
        # The folder keeps the extension, because frames taken from clip.mp4 often lie beside it in a folder clip.
        folder = source.name + source.path.suffix
        pictures = (
            self._predict(source, frame, f"{folder}/{number:06}", overlay, number)
            for number, frame in enumerate(watch(frames))
        )
        write_video(inside(self.folder, overlay), pictures, rate)

    def _predict(
        self, source: Source, gray: np.ndarray, name: str, overlay: str, frame: int | None = None
    ) -> np.ndarray:
        """Predict an image or frame, write its mask and keep its record; return the overlay, (H, W, 3) uint8 BGR."""
        prediction = self.predictor.predict_gray(gray)
        mask = prediction["probability"] > self.predictor.threshold
        record = {
            "file": str(source.path),
            "frame": frame,
            "height": mask.shape[0],
            "width": mask.shape[1],
            "mask": f"masks/{name}.png",
            "overlay": overlay,
            "detections": prediction["detections"],
        }
        write_png(inside(self.folder, record["mask"]), mask.astype(np.uint8) * 255)
        self.records.append(record)
        self._append(LINES, json.dumps(record, default=asdict) + "\n")
        self._append(TABLE, table_rows(record["file"], frame, record["detections"]))
        return draw_overlay(gray, mask, prediction["detections"])

    def close(self) -> None:
        """Write detections.json atomically in the place of detections.jsonl."""
        document = {"threshold": self.predictor.threshold, "images": self.records, "failed": self.failed}
        with atomic_write(self.folder / DOCUMENT, "w") as file:
            json.dump(document, file, indent=1, default=asdict)
        (self.folder / LINES).unlink(missing_ok=True)

    def _append(self, name: str, text: str) -> None:
        """Append to a table; what UTF-8 cannot hold of a file's name is written as in json, such as \\udcff."""
        path = self.folder / name
        try:
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            raise OSError(error.errno, f"'{path}' cannot be written: {error.strerror}") from error


def remove_results(folder: Path) -> None:
    """Remove what an earlier detection run wrote into a folder, also if it was killed, so that none of its files stays.

    Raises:
        ValueError: the folder has masks or overlays of another origin, which a run would mix with its own; or its
            detections.json is damaged.
    """
    tables = [path for path in (folder / DOCUMENT, folder / LINES) if path.is_file()]
    results = [folder / name for name in RESULTS]
    if not tables:
        foreign = [path for path in results if path.is_dir() and any(path.iterdir())]
        if foreign:
            raise ValueError(f"{foreign[0]} exists and no {DOCUMENT} lists its files: choose another --output.")
        return
    listed = {folder / record[key] for path in tables for record in _read_records(path) for key in ("mask", "overlay")}
    files = {path for path in listed if any(path.resolve().is_relative_to(result.resolve()) for result in results)}
    parents = {*results, *(path.parent for path in files)}
    halves = [path for parent in parents for pattern in HALF_WRITTEN for path in parent.glob(pattern)]
    for path in (*files, *halves, folder / TABLE, *tables):
        path.unlink(missing_ok=True)
    for parent in sorted(parents, reverse=True):
        with contextlib.suppress(OSError):  # Other files stay, and so do their folders.
            parent.rmdir()


def _read_records(table: Path) -> list[dict[str, str]]:
    """Return the paths "mask" and "overlay" of the records in a detections.json or detections.jsonl."""
    try:
        text = table.read_text(encoding="utf-8")
        if table.name == DOCUMENT:
            records = json.loads(text)["images"]
        else:
            records = [json.loads(line) for line in text.split("\n")[:-1]]  # A kill may cut the last line off.
        return [{key: os.fspath(record[key]) for key in ("mask", "overlay")} for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{table} is no table of detections ({error}): choose another --output.") from error


def write_video(path: Path, pictures: Iterator[np.ndarray], rate: float) -> None:
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
