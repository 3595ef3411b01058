"""A predictor of infrared small targets that works like Detectron2's DefaultPredictor."""

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from istd.data.arrays import gray_from_array
from istd.data.sensor import parse_range
from istd.deploy.detections import Detection, find_detections
from istd.deploy.runners import Runner, open_model, run_network
from istd.deploy.tiling import predict_tiled

if TYPE_CHECKING:
    from detectron2.config import CfgNode

TILE = 512  # pixels
OVERLAP = 64  # pixels


class ISTDPredictor:
    """Predicts the probability map and the detections of one image of any size at a time.

    `ISTDPredictor(cfg)` loads the student of MODEL.WEIGHTS, a checkpoint of training, and needs no foundation model.
    `ISTDPredictor.from_file(path)` loads an exported file and does not need Detectron2 either.

    Attributes:
        runner: network that runs.
        threshold: a pixel belongs to a target if its probability is above this threshold.
        value_range: range of raw values, see `istd.data.sensor.gray_from_raw`.
        tile, overlap: side and overlap of the tiles in pixels, see `predict_tiled`.
    """

    def __init__(
        self,
        cfg: "CfgNode | None" = None,
        *,
        runner: Runner | None = None,
        threshold: float | None = None,
        value_range: str | None = None,
        tile: int = TILE,
        overlap: int = OVERLAP,
    ):
        """
        Args:
            cfg: configuration with MODEL.WEIGHTS, MODEL.DEVICE (without a GPU the device is the CPU) and the keys that
                `load_student` reads.
            runner: runner of `istd.deploy.runners`, instead of a configuration.
            threshold: threshold of a target; None takes the network's own.
            value_range: "percentiles", "type" or "LOW..HIGH"; None takes the network's own.
            tile, overlap: side and overlap of the tiles in pixels; tile 0 predicts images in one piece.
        """
        if runner is None:
            from istd.checkpoints import load_student

            device = cfg.MODEL.DEVICE if torch.cuda.is_available() else "cpu"
            runner = run_network(*load_student(cfg, cfg.MODEL.WEIGHTS), device)
        self.runner = runner
        self.threshold = runner.recipe.threshold if threshold is None else threshold
        self.value_range = runner.recipe.value_range if value_range is None else value_range
        parse_range(self.value_range)
        self.tile = tile
        self.overlap = overlap

    @classmethod
    def from_file(
        cls, path: str | os.PathLike, device: str | torch.device = "cpu", *, trust: bool = False, **options
    ) -> "ISTDPredictor":
        """Build a predictor of a file that `open_model` reads; `options` are those of the class."""
        return cls(runner=open_model(path, device, trust=trust), **options)

    def probability(self, image: np.ndarray) -> np.ndarray:
        """Predict the probability of a target at each pixel.

        The type and the values of an array tell what they mean, see `istd.data.arrays.gray_from_array`. The first use
        of another scale than 0..255 is logged.

        Args:
            image: gray image (H, W), (1, H, W) or (H, W, 1), or color image (H, W, 3) BGR, as OpenCV reads images.
                uint8, or other numbers within 0..255: gray values, as `istd.data.images.read_infrared` returns them
                other integers: counts of a sensor, which are repaired and stretched by `value_range`
                floats within 0..1 that span at least a quarter of it: gray values divided by 255
                other floats, such as temperatures in Kelvin: raw values, treated as counts
                If `value_range` is "LOW..HIGH", all but uint8 are raw values.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            ValueError: the array is no such image, or too many of its values are not finite.
        """
        return predict_tiled(self.runner, gray_from_array(image, self.value_range), self.tile, self.overlap)

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray | list[Detection]]:
        """Return the result of `probability` as "probability" and the list of its `Detection`s as "detections"."""
        return self.predict_gray(gray_from_array(image, self.value_range))

    def predict_gray(self, gray: np.ndarray) -> dict[str, np.ndarray | list[Detection]]:
        """Predict as a call does, for an image of (H, W) gray values 0..255 whatever they are."""
        probability = predict_tiled(self.runner, gray.astype(np.float32), self.tile, self.overlap)
        return {"probability": probability, "detections": find_detections(probability, self.threshold)}
