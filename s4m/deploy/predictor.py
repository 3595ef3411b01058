"""A predictor of instances that works like Detectron2's DefaultPredictor, built from the folder of a training."""

import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np
import supervision as sv
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from d2kit.config_files import compose_config
from d2kit.files import load_weights
from d2kit.run_folder import checkpoint_to_use, config_of
from s4m import add_s4m_config
from s4m.data.classes import training_classes
from s4m.data.datasets_by_path import resolve_datasets
from s4m.engine.weights import network_weights, saved_classes

logger = logging.getLogger(__name__)


class S4MPredictor(DefaultPredictor):
    """Detectron2's DefaultPredictor of the student or the teacher of a training.

    A call takes an image (H, W, 3) uint8 in the order BGR and returns {"instances": Instances} in the frame of that
    image: `pred_boxes` (N, 4) in absolute pixels, `pred_masks` (N, H, W) bool, `scores` (N,) in [0, 1] and
    `pred_classes` (N,), which are indices of `class_names`. The image is resized by INPUT.MIN_SIZE_TEST and
    INPUT.MAX_SIZE_TEST and is predicted in one piece. `s4m.data.images.read_image` reads files as the training does.

    Neither SAM nor the other network is built. The checkpoint is loaded safely, other than by DefaultPredictor.

    Attributes:
        cfg: configuration of the network; MODEL.WEIGHTS names the checkpoint.
        model: the network, in eval mode.
        network: "student" or "teacher".
        class_names: name of each class; the numbers from 0 where neither the checkpoint nor a data set tells them.
    """

    def __init__(self, cfg: CfgNode, network: str | None = None, class_names: Sequence[str] = ()):
        """
        Args:
            cfg: complete configuration of the training, whose MODEL.WEIGHTS names its checkpoint. Without a GPU, the
                device is the CPU.
            network: "student" or "teacher"; None takes the one that S4M.TEST.NETWORK names.
            class_names: name of each class; empty takes those that `class_names_of` finds.

        Raises:
            FileNotFoundError, ValueError: the checkpoint is missing, unsafe, of another network or without the teacher;
                or the number of names is not MODEL.ROI_HEADS.NUM_CLASSES.
        """
        plain = cfg.clone()
        plain.defrost()
        if not torch.cuda.is_available():
            plain.MODEL.DEVICE = "cpu"
        if cfg.MODEL.META_ARCHITECTURE == "TeacherStudent":
            plain.MODEL.META_ARCHITECTURE = cfg.S4M.STUDENT
        self.network = network or cfg.S4M.TEST.NETWORK
        checkpoint = load_weights(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
        weights = network_weights(checkpoint, self.network, cfg.MODEL.WEIGHTS)
        plain.MODEL.WEIGHTS = ""
        plain.DATASETS.TEST = ()
        super().__init__(plain)
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"'{cfg.MODEL.WEIGHTS}' does not fit the configured network: {reason}") from error
        self.cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS
        self.class_names = list(class_names) or class_names_of(cfg, checkpoint)
        count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if len(self.class_names) != count:
            raise ValueError(f"the network has {count} classes, but there are {len(self.class_names)} names for them.")

    @classmethod
    def from_run(
        cls,
        folder: str | os.PathLike,
        network: str | None = None,
        *,
        class_names: Sequence[str] = (),
        device: str | None = None,
    ) -> "S4MPredictor":
        """Build the predictor of a training: of its best checkpoint, or else its newest. The log names the file.

        Args:
            folder: OUTPUT_DIR of the training, with its config.yaml.
            network: "student" or "teacher"; None takes the one that S4M.TEST.NETWORK names.
            class_names: see the class.
            device: "cpu" or "cuda"; None takes MODEL.DEVICE.

        Raises:
            FileNotFoundError: the folder holds no config.yaml or no checkpoint.
            ValueError: see the class.
        """
        cfg = run_config(folder)
        cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
        logger.info("The predictor is the %s of %s.", network or cfg.S4M.TEST.NETWORK, cfg.MODEL.WEIGHTS)
        return cls(cfg, network, class_names)


def run_config(folder: str | os.PathLike) -> CfgNode:
    """Return the configuration of a training; MODEL.WEIGHTS names its best checkpoint, or else its newest.

    Raises:
        FileNotFoundError: the folder holds no config.yaml or no checkpoint.
    """
    cfg = compose_config([config_of(folder)], add_keys=[add_s4m_config])
    cfg.MODEL.WEIGHTS = str(checkpoint_to_use(folder))
    return cfg


def class_names_of(cfg: CfgNode, checkpoint: Mapping) -> list[str]:
    """Return the names of the classes of a network.

    A checkpoint of a training tells them. Bare weights and older checkpoints do not: then they are those of
    DATASETS.TRAIN, or numbers, with a warning, where that data set cannot be read.

    Args:
        cfg: complete configuration of the network.
        checkpoint: content of the file of its weights.
    """
    names = saved_classes(checkpoint)
    if names:
        return names
    try:
        resolve_datasets(cfg.DATASETS.TRAIN[:1])
        names = training_classes(cfg)
    except (OSError, ValueError) as error:
        logger.warning("The classes have numbers for names, because their data set is absent: %s", error)
    return names or [str(number) for number in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)]


class RunDetector:
    """The `s4m.deploy.detector.Detector` of an S4MPredictor."""

    def __init__(self, predictor: S4MPredictor):
        self.predictor = predictor
        self.class_names = predictor.class_names
        self.value_range = predictor.cfg.INPUT.RANGE

    def __call__(self, image: np.ndarray) -> sv.Detections:
        """Find the instances of an image; see `Detector`."""
        return sv.Detections.from_detectron2({"instances": self.predictor(image)["instances"].to("cpu")})
