"""The protocol between networks that find instances and the code that slices, draws and writes."""

from typing import Protocol

import numpy as np
import supervision as sv


class Detector(Protocol):
    """A callable that finds the instances of one image in one piece.

    Attributes:
        class_names: the name of each class, by its index in `Detections.class_id`.
        value_range: how files of more than 8 bits become 8, as INPUT.RANGE; see `s4m.data.images.to_eight_bits`.
    """

    class_names: list[str]
    value_range: str

    def __call__(self, image: np.ndarray) -> sv.Detections:
        """Find the instances of an image.

        Args:
            image: (H, W, 3) uint8 BGR.

        Returns:
            `supervision.Detections` of N instances, N 0 or more: `xyxy` (N, 4) float32 in absolute pixels of the image,
            `mask` (N, H, W) bool, `confidence` (N,) float32 in [0, 1] and `class_id` (N,) int.
        """
