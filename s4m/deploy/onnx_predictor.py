"""An exported Mask R-CNN runs in ONNX Runtime, without PyTorch and Detectron2."""

import logging
import math
import os
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image

from d2kit.files import first_line
from d2kit.require import require_extra
from s4m.deploy.recipe import MAX_SIDE, METADATA, Recipe, read_metadata

logger = logging.getLogger(__name__)

INPUT = "image"
OUTPUTS = ("boxes", "classes", "masks", "scores")
CUDA = "CUDAExecutionProvider"


class OnnxPredictor:
    """The `s4m.deploy.detector.Detector` of an .onnx file of `s4m.deploy.export.export_onnx`.

    Attributes:
        recipe: what the file says of its network.
        class_names, value_range: see `Detector`.
    """

    def __init__(self, path: str | os.PathLike, device: str = "cpu"):
        """
        Args:
            path: the file.
            device: "cpu" or "cuda"; where ONNX Runtime cannot use CUDA, a warning says so, and the CPU is used.

        Raises:
            FileNotFoundError, ValueError: the file is absent, or is no network that `s4m export` wrote.
            ImportError: onnxruntime is not installed.
        """
        runtime = require_extra("onnxruntime", "onnx")
        if not Path(path).is_file():
            raise FileNotFoundError(f"the network '{path}' does not exist.")
        if device not in ("cpu", "cuda"):
            raise ValueError(f"the device '{device}' is neither cpu nor cuda.")
        providers = ["CPUExecutionProvider"]
        if device == "cuda" and CUDA in runtime.get_available_providers():
            providers.insert(0, CUDA)
        elif device == "cuda":
            logger.warning("'%s' runs on the CPU: this build of ONNX Runtime has no CUDA.", path)
        try:
            self._session = runtime.InferenceSession(os.fspath(path), providers=providers)
            text = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
            names = [item.name for item in self._session.get_outputs()]
        except Exception as error:  # The exceptions of ONNX Runtime have no other common base.
            raise ValueError(f"'{path}' is no ONNX file that runs here ({first_line(error)}).") from error
        self.recipe = read_metadata(text, path)
        if sorted(names) != sorted(OUTPUTS):
            raise ValueError(f"'{path}' answers {names} in place of {list(OUTPUTS)}: export it with s4m export.")
        self.class_names = self.recipe.class_names
        self.value_range = self.recipe.value_range
        self._path = path

    def __call__(self, image: np.ndarray) -> sv.Detections:
        """Find the instances of an image; see `Detector`.

        Raises:
            ValueError: the image is too large, or the network does not run.
        """
        resized = resize(image, self.recipe)
        feed = np.ascontiguousarray(resized.transpose(2, 0, 1), np.float32)
        try:
            boxes, classes, masks, scores = self._session.run(OUTPUTS, {INPUT: feed})
        except Exception as error:
            raise ValueError(f"'{self._path}' cannot predict an image ({first_line(error)}).") from error
        height, width = image.shape[:2]
        scale = np.array([width / resized.shape[1], height / resized.shape[0]] * 2, np.float32)
        boxes = np.clip(boxes * scale, 0, np.array([width, height] * 2, np.float32))
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if not kept.any():
            return sv.Detections.empty()
        pasted = [
            paste(mask[0], box, (height, width), self.recipe.mask_threshold)
            for mask, box in zip(masks[kept], boxes[kept], strict=True)
        ]
        return sv.Detections(
            xyxy=boxes[kept], mask=np.stack(pasted), confidence=scores[kept], class_id=classes[kept].astype(int)
        )


def resize(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Bring an image (H, W, 3) uint8 BGR to the size and the order of channels that the network is fed.

    Sizes are those of Detectron2's ResizeShortestEdge.

    Raises:
        ValueError: a side of the result would exceed MAX_SIDE.
    """
    pixels = image if recipe.format == "BGR" else image[:, :, ::-1]
    height, width = image.shape[:2]
    factor = 1.0
    if recipe.min_size:
        factor = recipe.min_size / min(height, width)
        factor *= min(1.0, recipe.max_size / (factor * max(height, width)))
    size = (int(width * factor + 0.5), int(height * factor + 0.5))
    if max(size) > MAX_SIDE:
        raise ValueError(f"the network would be fed {size[0]}x{size[1]} pixels, and {MAX_SIDE} is the longest side.")
    if size == (width, height):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def paste(mask: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float) -> np.ndarray:
    """Paste a mask from the frame of its box into the image, with bilinear interpolation and 0 outside, as Detectron2.

    Args:
        mask: (S, S) float probability.
        box: (x0, y0, x1, y1) in pixels of the image.
        size: height and width of the image.
        threshold: least probability of the instance's pixels.

    Returns:
        (H, W) bool.
    """
    pasted = np.zeros(size, bool)
    # Interpolation is separable: a matrix of weights from the mask's rows to the image's, and one of its columns.
    (top, rows), (left, columns) = (
        _weights(box[axis], box[axis + 2], size[1 - axis], mask.shape[1 - axis]) for axis in (1, 0)
    )
    pasted[top : top + len(rows), left : left + len(columns)] = rows @ mask @ columns.T >= threshold
    return pasted


def _weights(low: float, high: float, length: int, cells: int) -> tuple[int, np.ndarray]:
    """Return the first pixel near [low, high], and the weights (pixels, cells) of the pixels from there."""
    start, end = max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, length)
    centers = (np.arange(start, end, dtype=np.float32) + 0.5 - low) / (high - low) * cells - 0.5
    return start, np.maximum(0, 1 - np.abs(centers[:, None] - np.arange(cells, dtype=np.float32)))
