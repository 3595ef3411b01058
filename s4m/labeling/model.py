"""The network of a training run labels single images by the pipeline of stage 2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from detectron2.modeling import build_model

from d2kit.coco_masks import encode_mask
from d2kit.config_files import compose_config
from d2kit.launcher import choose_device
from d2kit.ranges import check_values
from d2kit.rng import derive_seed
from d2kit.run_folder import config_of
from s4m import add_s4m_config
from s4m.data.classes import training_classes, with_classes
from s4m.data.datasets_by_path import resolve_config_datasets
from s4m.data.mappers import LabeledMapper, UnlabeledMapper
from s4m.data.two_stream import load_labeled
from s4m.engine.cached_source import use_cache
from s4m.engine.weights import TeacherStudentCheckpointer, saved_classes
from s4m.modeling.teacher_student import TeacherStudent
from s4m.pseudo_labels.record import ImageRecord
from s4m.ranges import S4M_VALUES

STAGE_1 = "stage 1"  # the only network of a run without DATASETS.UNLABELED
_DIGITS = 6  # of scores in the json


def run_config(run: Path, options: Sequence[str] = ()) -> tuple[CfgNode, bool]:
    """Return the configuration by which the network of a run labels, and whether the run is of stage 1.

    In a run of stage 1, S4M.PR.ENABLED is True unless the options say otherwise or there is no S4M.SAM.NAME.

    Args:
        run: folder that a training wrote.
        options: KEY VALUE pairs that change the configuration.

    Raises:
        FileNotFoundError, KeyError, ValueError: the folder has no config.yaml, or a key or value is wrong.
    """
    file = config_of(run)
    cfg = compose_config([file], options, [add_s4m_config])
    is_stage_1 = not cfg.DATASETS.UNLABELED
    if is_stage_1:
        cfg = compose_config([file], ["S4M.PR.ENABLED", str(bool(cfg.S4M.SAM.NAME)), *options], [add_s4m_config])
        cfg.DATASETS.UNLABELED = ("images to label",)  # With this the network is built with the parts of stage 2.
    cfg.S4M.TEACHER.WEIGHTS = ""
    check_values(cfg, S4M_VALUES)
    choose_device(cfg)
    cfg.freeze()
    return cfg, is_stage_1


def load_model(cfg: CfgNode, checkpoint: Path, network: str, images: int) -> tuple[TeacherStudent, list[str]]:
    """Load a checkpoint of a run as the model whose teacher labels.

    Args:
        cfg: result of `run_config`.
        checkpoint: file that the training wrote.
        network: "teacher", "student" or STAGE_1.
        images: number of images to label, for the warning of a full S4M.SAM.CACHE.

    Returns:
        the model and the names of its classes, which are empty where the checkpoint has none.

    Raises:
        FileNotFoundError, ValueError: the file lacks weights of the network, or SAM's weights are missing.
    """
    model = build_model(cfg)
    if not isinstance(model, TeacherStudent):
        raise ValueError(f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, but only TeacherStudent labels.")
    checkpointer = TeacherStudentCheckpointer(model)
    checkpointer.logger.disabled = True  # It would list the teacher as missing from a checkpoint of stage 1.
    rest = checkpointer.load(str(checkpoint), checkpointables=[])
    checkpointer.logger.disabled = False
    if checkpointer.missing:
        raise ValueError(f"'{checkpoint}' lacks weights of the network, '{checkpointer.missing[0]}' for one.")
    if network == "student":
        model.teacher = model.student
    use_cache(cfg, model.eval(), images)
    return model, saved_classes(rest)


def calibrate(cfg: CfgNode, model: TeacherStudent, classes: Sequence[str]) -> dict[str, Any]:
    """Fit the model's confidence to the labeled images of DATASETS.TRAIN, unless its checkpoint brought the fit.

    The images are taken in a random order that follows SEED, until there are as many samples as calibration keeps.
    Their classes are found by their names.

    Args:
        cfg: result of `run_config`.
        model: result of `load_model`.
        classes: names of the model's classes.

    Returns:
        `source` ("checkpoint", "labeled images" or "none", where the confidence is the score), the number `samples` of
        pseudo-labels that were compared, and the `weights` of the fit.
    """
    calibration = model.calibration
    if calibration is None:
        return {"source": "none", "samples": 0, "weights": []}
    source = "checkpoint"
    if not calibration.drawn:
        source = "labeled images"
        resolve_config_datasets(_without_tests(cfg))
        dicts = load_labeled(cfg.DATASETS.TRAIN, objects_of_crowds=cfg.INPUT.CROWDS_AS_OBJECTS)
        dicts = with_classes(dicts, training_classes(cfg), classes)
        mapper = LabeledMapper(**_reading(cfg), recompute_boxes=False, with_crowds=True)
        seeds = [derive_seed(max(cfg.SEED, 0), "calibration", number) for number in range(len(dicts))]
        for number in sorted(range(len(dicts)), key=seeds.__getitem__):
            if calibration.drawn >= len(calibration.worth):
                break
            model.calibrate([{**mapper(dicts[number]), "seed": seeds[number]}])
    return {"source": source, "samples": int(calibration.drawn), "weights": calibration.weights.tolist()}


def training_names(cfg: CfgNode) -> list[str]:
    """Return the names of the classes of DATASETS.TRAIN; FileNotFoundError or ValueError if it cannot be read."""
    resolve_config_datasets(_without_tests(cfg))
    return training_classes(cfg)


def _without_tests(cfg: CfgNode) -> CfgNode:
    """Return the configuration with no data set but those of DATASETS.TRAIN."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = cfg.DATASETS.UNLABELED = ()
    return cfg


def build_mapper(cfg: CfgNode) -> UnlabeledMapper:
    """Build the mapper that reads images as in a test."""
    return UnlabeledMapper(**_reading(cfg))


def _reading(cfg: CfgNode) -> dict[str, Any]:
    augmentations = utils.build_augmentation(cfg, is_train=False)
    return {"augmentations": augmentations, "image_format": cfg.INPUT.FORMAT, "value_range": cfg.INPUT.RANGE}


def label_image(model: TeacherStudent, entry: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Label an image.

    Args:
        model: result of `load_model`.
        entry: result of the mapper.
        seed: the seed of the prompt points.

    Returns:
        COCO annotations without ids: `category_id` (class index plus 1), `segmentation` (RLE), `bbox`, `area`,
        `iscrowd` 0, `score`, `confidence`, `sam_quality` and `agreement` (None where SAM was not asked), `refined`,
        and `teacher_segmentation`, the mask before SAM, where `refined` is true. Masks have the size of the file.
    """
    weak = [{**entry, "seed": seed}]
    predictions, source = model.predict_as_teacher(weak)
    _, record = model.labeler.label(weak, predictions, model.segmenter, source)
    image = record.images[0]
    annotations = [_annotation(image, row, entry["source_size"]) for row in range(image.selected)]
    return [annotation for annotation in annotations if annotation["area"]]


def _annotation(image: ImageRecord, row: int, size: tuple[int, int]) -> dict[str, Any]:
    """Describe one pseudo-label in the frame of the file of (height, width) `size`."""
    confidence = image.scores if image.confidence is None else image.confidence
    annotation = {
        "category_id": int(image.classes[row]) + 1,
        **encode_mask(_resized(image.masks[row], size)),
        "iscrowd": 0,
        "score": _number(image.scores, row),
        "confidence": _number(confidence, row),
        "sam_quality": _number(image.quality, row) if image.prompted else None,
        "agreement": _number(image.agreement, row) if image.prompted else None,
        "refined": bool(image.accepted[row]),
    }
    if annotation["refined"]:
        before = encode_mask(_resized(image.teacher_masks[row], size))
        annotation["teacher_segmentation"] = before["segmentation"]
    return annotation


def _number(values: torch.Tensor, row: int) -> float | None:
    """Return a value; None for -inf, which the matching gives where all answers of SAM are empty."""
    value = round(float(values[row]), _DIGITS)
    return value if value >= 0 else None


def _resized(mask: torch.Tensor, size: tuple[int, int]) -> Any:
    """Return a bool mask (h, w) as an array of (height, width) `size`."""
    if tuple(mask.shape) != tuple(size):
        mask = F.interpolate(mask[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0] > 0.5
    return mask.cpu().numpy()
