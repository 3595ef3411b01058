"""A detection run of infrared small targets, which also writes masks."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2kit.detection_run import DetectionRun
from d2kit.files import inside, write_png
from istd.data.images import read_infrared
from istd.deploy.detections import COLUMNS, draw_overlay, table_rows
from istd.deploy.predictor import ISTDPredictor
from istd.deploy.sources import open_frames


class TargetRun(DetectionRun):
    """Writes masks, overlays and tables of detections into a folder as files are added; see `DetectionRun`.

    The folder also gets masks/NAME.png (0 and 255, at the image's size) for each image, and masks/NAME.avi/000000.png,
    ... for a video NAME.avi or another sequence of frames. A record has `detections`, see `istd.deploy.detections`.
    """

    RESULTS = {"mask": "masks", "overlay": "overlays"}
    COLUMNS = COLUMNS

    def __init__(self, predictor: ISTDPredictor, folder: str | os.PathLike):
        self.predictor = predictor
        super().__init__(folder)

    def read(self, path: Path) -> np.ndarray:
        """Read an image as (H, W) gray values 0..255."""
        return read_infrared(path, self.predictor.value_range)

    def open_frames(self, path: Path) -> tuple[float, Iterable[np.ndarray]]:
        """Open a sequence; see `istd.deploy.sources.open_frames`."""
        return open_frames(path, self.predictor.value_range)

    def predict(self, pixels: np.ndarray, name: str, record: dict[str, Any]) -> tuple[list[Sequence], np.ndarray]:
        """Predict an image or frame and write its mask; see `DetectionRun`."""
        prediction = self.predictor.predict_gray(pixels)
        mask = prediction["probability"] > self.predictor.threshold
        record["mask"] = f"{self.RESULTS['mask']}/{name}.png"
        record["detections"] = prediction["detections"]
        write_png(inside(self.folder, record["mask"]), mask.astype(np.uint8) * 255)
        return table_rows(record["detections"]), draw_overlay(pixels, mask, record["detections"])

    def document(self) -> dict[str, Any]:
        """Return the threshold and the records as `images`."""
        return {"threshold": self.predictor.threshold, "images": self.records}
