"""A run of predictions, which draws instances and writes them in COCO format."""

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv

from d2kit.coco_masks import encode_crop
from d2kit.detection_run import DetectionRun
from d2kit.videos import VideoFrames
from s4m.data.images import read_image
from s4m.deploy.detector import Detector
from s4m.deploy.slices import detect_sliced


class InstanceRun(DetectionRun):
    """Writes overlays and tables of instances into a folder as files are added; see `DetectionRun`.

    A record also has `seconds`, which the prediction took, and `annotations`: category_id (index of the class + 1),
    score in [0, 1], bbox (x, y, width, height) and area in pixels, and segmentation, a compressed RLE. detections.json
    is a COCO json of them, and each annotation has its score.
    """

    RESULTS = {"overlay": "overlays"}
    COLUMNS = ("file", "frame", "class", "score", "x0", "y0", "x1", "y1", "area", "seconds")

    def __init__(
        self, detector: Detector, folder: str | os.PathLike, *, threshold: float = 0.5, tile: int = 0, overlap: int = 0
    ):
        """
        Args:
            detector: network that runs.
            folder: folder to write.
            threshold: least confidence of an instance that is kept.
            tile, overlap: side and overlap of slices in pixels, see `detect_sliced`.
        """
        self.detector = detector
        self.threshold = threshold
        self.tile = tile
        self.overlap = overlap
        super().__init__(folder)

    def read(self, path: Path) -> np.ndarray:
        """Read an image as (H, W, 3) uint8 BGR, as a training does."""
        return np.ascontiguousarray(read_image(os.fspath(path), "BGR", self.detector.value_range))

    def open_frames(self, path: Path) -> tuple[float, Iterable[np.ndarray]]:
        """Open a video."""
        video = VideoFrames(path)
        return video.rate, video

    def predict(self, pixels: np.ndarray, name: str, record: dict[str, Any]) -> tuple[list[Sequence], np.ndarray]:
        """Predict an image or frame; see `DetectionRun`."""
        start = time.perf_counter()
        found = detect_sliced(self.detector, pixels, self.tile, self.overlap)
        record["seconds"] = round(time.perf_counter() - start, 4)
        if len(found):
            found = found[found.confidence >= self.threshold]
        record["annotations"] = [annotation_of(found, number) for number in range(len(found))]
        rows = [self._row(one, record["seconds"]) for one in record["annotations"]]
        return rows, draw_instances(pixels, found, self.detector.class_names)

    def _row(self, annotation: dict[str, Any], seconds: float) -> list:
        x, y, width, height = map(int, annotation["bbox"])
        name = self.detector.class_names[annotation["category_id"] - 1]
        return [name, annotation["score"], x, y, x + width, y + height, annotation["area"], seconds]

    def document(self) -> dict[str, Any]:
        """Return a COCO json."""
        images = []
        annotations: list[dict[str, Any]] = []
        for number, record in enumerate(self.records, 1):
            images.append({"id": number} | {key: value for key, value in record.items() if key != "annotations"})
            for one in record["annotations"]:
                annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, **one})
        categories = [{"id": number, "name": name} for number, name in enumerate(self.detector.class_names, 1)]
        info = {"description": "instances found by `s4m predict`", "threshold": self.threshold}
        return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def annotation_of(found: sv.Detections, number: int) -> dict[str, Any]:
    """Return the fields of a COCO annotation for one of the detections of `detect_sliced`; the first class has id 1."""
    masks = found.mask
    rle = encode_crop(masks.crop(number), masks.offsets[number], masks.image_shape)
    return {"category_id": int(found.class_id[number]) + 1, "score": round(float(found.confidence[number]), 5), **rle}


def draw_instances(image: np.ndarray, found: sv.Detections, class_names: Sequence[str]) -> np.ndarray:
    """Draw masks, their outlines, and the names and scores of instances on an image.

    Args:
        image: (H, W, 3) uint8 BGR, which is not changed.
        found: instances of the image.
        class_names: name of each class.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    size = image.shape[1::-1]
    thickness = sv.calculate_optimal_line_thickness(size)
    font_size = max(9, round(20 * sv.calculate_optimal_text_scale(size)))
    pairs = zip(found.class_id, found.confidence, strict=True) if len(found) else ()
    labels = [f"{class_names[number]} {score:.2f}" for number, score in pairs]
    picture = sv.MaskAnnotator(opacity=0.4).annotate(image.copy(), found)
    picture = sv.PolygonAnnotator(thickness=thickness).annotate(picture, found)
    return sv.RichLabelAnnotator(font_size=font_size, text_padding=2).annotate(picture, found, labels=labels)
