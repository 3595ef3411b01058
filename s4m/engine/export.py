"""Trained networks as files that plain Detectron2 reads, without an import of ours."""

import os

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY

from d2kit.files import atomic_write, load_weights
from s4m.engine.weights import network_weights

# What our parts are called in Detectron2; they have the same weights, and the same outputs in eval mode.
_PLAIN_NAMES = {"PseudoLabelRPN": "RPN", "PseudoLabelROIHeads": "StandardROIHeads"}


def export_weights(checkpoint: str, network: str, output: str) -> None:
    """Write `{"model": weights}` of one network of a training checkpoint, atomically.

    Args:
        checkpoint: file of a `TeacherStudent`'s training.
        network: "student" or "teacher".
        output: file to write.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, unsafe or holds no such network.
    """
    weights = network_weights(load_weights(checkpoint, "--checkpoint"), network, checkpoint)
    with atomic_write(output) as file:
        torch.save({"model": weights}, file)


def _copy_known(source: CfgNode, target: CfgNode) -> None:
    """Set every key of `target` to its value in `source`."""
    for key, value in target.items():
        if isinstance(value, CfgNode):
            _copy_known(source[key], value)
        elif key in source:
            target[key] = source[key]


def _check_counterpart(cfg: CfgNode) -> None:
    """Raise a ValueError unless Detectron2 alone can build the student."""
    if cfg.S4M.STUDENT != "S4MRCNN":
        raise ValueError(f"S4M.STUDENT is '{cfg.S4M.STUDENT}'; only S4MRCNN has a counterpart in Detectron2.")
    name = cfg.MODEL.BACKBONE.NAME
    if name in BACKBONE_REGISTRY and BACKBONE_REGISTRY.get(name).__module__.split(".")[0] == __package__.split(".")[0]:
        raise ValueError(f"MODEL.BACKBONE.NAME is '{name}', which this package registers; Detectron2 cannot build it.")


def plain_config(cfg: CfgNode, weights: str) -> CfgNode:
    """Detectron2's own configuration of the network that `cfg` trains.

    Args:
        cfg: complete, with our keys.
        weights: becomes MODEL.WEIGHTS.

    Returns:
        a configuration with Detectron2's keys alone: GeneralizedRCNN with its own RPN and heads. Data sets that only we
        register are left out.

    Raises:
        ValueError: the student is no Mask R-CNN, or its backbone is one that only we register.
    """
    _check_counterpart(cfg)
    plain = get_cfg()
    _copy_known(cfg, plain)
    plain.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    plain.MODEL.WEIGHTS = weights
    for node in (plain.MODEL.PROPOSAL_GENERATOR, plain.MODEL.ROI_HEADS):
        node.NAME = _PLAIN_NAMES.get(node.NAME, node.NAME)
    plain.DATASETS.TRAIN = ()
    plain.DATASETS.TEST = tuple(name for name in cfg.DATASETS.TEST if ":" not in name)
    return plain


def export_config(cfg: CfgNode, weights: str) -> str:
    """Write `plain_config` beside the weights, as a yaml of the same name; returns its path."""
    path = f"{os.path.splitext(weights)[0]}.yaml"
    with atomic_write(path, "w") as file:
        file.write(plain_config(cfg, weights).dump())
    return path
