"""A predictor of infrared small targets, as Detectron2's DefaultPredictor is one of instances."""

import os
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from istd.deploy.detections import Detection, find_detections
from istd.deploy.runners import Runner, open_model, run_network
from istd.deploy.tiling import predict_tiled

if TYPE_CHECKING:
    from detectron2.config import CfgNode

TILE, OVERLAP = 512, 64  # pixels


class ISTDPredictor:
    """Probability map and detections of one image at a time, of any size.

    `ISTDPredictor(cfg)` takes the student of MODEL.WEIGHTS (a checkpoint of training; no foundation model is needed),
    `ISTDPredictor.from_file(path)` an exported file, for which Detectron2 is not needed either.

    Attributes:
        runner: the network.
        threshold: probability above which a pixel is a target's.
        tile, overlap: see `predict_tiled`.
    """

    def __init__(
        self,
        cfg: "CfgNode | None" = None,
        *,
        runner: Runner | None = None,
        threshold: float | None = None,
        tile: int = TILE,
        overlap: int = OVERLAP,
    ):
        """
        Args:
            cfg: MODEL.WEIGHTS, MODEL.DEVICE (without a GPU it is the CPU) and the keys of `load_student` are read.
            runner: of `istd.deploy.runners`, in place of a configuration.
            threshold: None takes the one that the network comes with.
            tile, overlap: pixels; tile 0 predicts images in one piece.
        """
        self.runner = runner or _runner_of_config(cfg)
        self.threshold = self.runner.recipe.threshold if threshold is None else threshold
        self.tile, self.overlap = tile, overlap

    @classmethod
    def from_file(cls, path: str | os.PathLike, device: str | torch.device = "cpu", **options) -> "ISTDPredictor":
        """A predictor of an exported file, see `open_model`; `options` as of the class."""
        return cls(runner=open_model(path, device), **options)

    def probability(self, image: np.ndarray) -> np.ndarray:
        """Target probability.

        Args:
            image: (H, W) grey values 0..255, as `istd.data.images.read_infrared` gives them, or (H, W, 3) uint8 BGR, as
                OpenCV does.

        Returns:
            (H, W) float32 in [0, 1].
        """
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image
        return predict_tiled(self.runner, grey.astype(np.float32), self.tile, self.overlap)

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray | list[Detection]]:
        """{"probability": (H, W) float32, "detections": list of `Detection`} of an image, see `probability`."""
        probability = self.probability(image)
        return {"probability": probability, "detections": find_detections(probability, self.threshold)}


def _runner_of_config(cfg: "CfgNode") -> Runner:
    from istd.checkpoints import load_student

    device = cfg.MODEL.DEVICE if torch.cuda.is_available() else "cpu"
    return run_network(*load_student(cfg, cfg.MODEL.WEIGHTS), device)
