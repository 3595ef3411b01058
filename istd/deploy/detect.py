"""A detection run: every image and frame predicted, its mask and overlay written, all detections in one table."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from d2kit.files import atomic_write, write_png
from istd.data.images import read_infrared
from istd.deploy.detections import detection_table, draw_overlay
from istd.deploy.predictor import ISTDPredictor
from istd.deploy.sources import Source, Video

TABLE, DOCUMENT = "detections.csv", "detections.json"


class DetectionRun:
    """Writes into a folder: `masks` and `overlays` as source files come, the tables of detections with `close`.

    Masks are PNG of 0 and 255 at the image's size, overlays PNG; those of NAME.avi are masks/NAME.avi/000000.png
    ... and overlays/NAME.mp4.

    Attributes:
        records: an entry for each image or frame: file, frame (None for images), height, width, mask, overlay (paths
            below the folder) and detections.
        failed: file -> reason.
    """

    def __init__(self, predictor: ISTDPredictor, folder: str | os.PathLike):
        self.predictor, self.folder = predictor, Path(folder)
        self.records: list[dict] = []
        self.failed: dict[str, str] = {}

    def add(self, source: Source, watch: Callable[[Iterable], Iterable] = iter) -> None:
        """Predict a file; one that cannot be read, or only in part, is named in `failed`.

        Args:
            source: of `find_sources`.
            watch: wraps the frames of a video, for a progress bar.
        """
        try:
            if source.video:
                self._add_video(source, watch)
            else:
                self._add_image(source)
        except (OSError, ValueError, RuntimeError, MemoryError, cv2.error) as error:
            self.failed[str(source.path)] = " ".join(str(error).split()) or type(error).__name__

    def _add_image(self, source: Source) -> None:
        overlay = f"overlays/{source.name}.png"
        grey = read_infrared(source.path, self.predictor.runner.recipe.depth)
        write_png(self.folder / overlay, self._predict(source, grey, source.name, overlay))

    def _add_video(self, source: Source, watch: Callable[[Iterable], Iterable]) -> None:
        video, overlay = Video(source.path), f"overlays/{source.name}.mp4"
        # With its extension: frames that were taken out of clip.mp4 often lie beside it, in a folder clip.
        folder = source.name + source.path.suffix
        greys = (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in watch(video))
        pictures = (
            self._predict(source, grey, f"{folder}/{number:06}", overlay, number) for number, grey in enumerate(greys)
        )
        write_video(self.folder / overlay, pictures, video.rate)

    def _predict(
        self, source: Source, grey: np.ndarray, name: str, overlay: str, frame: int | None = None
    ) -> np.ndarray:
        """Predict an image or frame, write its mask, keep its record; returns the overlay, (H, W, 3) uint8 BGR."""
        found = self.predictor(grey)
        mask = found["probability"] > self.predictor.threshold
        write_png(self.folder / "masks" / f"{name}.png", mask.astype(np.uint8) * 255)
        height, width = mask.shape
        self.records.append(
            {
                "file": str(source.path),
                "frame": frame,
                "height": height,
                "width": width,
                "mask": f"masks/{name}.png",
                "overlay": overlay,
                "detections": found["detections"],
            }
        )
        return draw_overlay(grey, mask, found["detections"])

    def close(self) -> None:
        """Write detections.csv and detections.json, atomically."""
        rows = ((record["file"], record["frame"], record["detections"]) for record in self.records)
        with atomic_write(self.folder / TABLE, "w") as file:
            file.write(detection_table(rows))
        images = [record | {"detections": [asdict(one) for one in record["detections"]]} for record in self.records]
        document = {"threshold": self.predictor.threshold, "images": images, "failed": self.failed}
        with atomic_write(self.folder / DOCUMENT, "w") as file:
            json.dump(document, file, indent=1)


def write_video(path: Path, pictures: Iterator[np.ndarray], rate: float) -> None:
    """Write (H, W, 3) uint8 BGR pictures of one size as MPEG-4; what came before an error is kept.

    Raises:
        OSError: OpenCV has no encoder here, or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, writer = path.with_name(f".{path.stem}.part{path.suffix}"), None
    try:
        for picture in pictures:
            if writer is None:
                size = picture.shape[1], picture.shape[0]
                writer = cv2.VideoWriter(os.fspath(part), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise OSError(f"cannot write {path}: OpenCV has no encoder for it here.")
            writer.write(picture)
    finally:
        if writer is not None:
            writer.release()
            if part.is_file():
                os.replace(part, path)
