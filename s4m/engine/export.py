"""A trained network becomes files that Detectron2 reads without this package."""

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY

from d2kit.files import atomic_write, load_weights
from s4m.engine.weights import network_weights

# Detectron2's classes have the same weights as ours, and the same outputs in eval mode.
_PLAIN_NAMES = {"PseudoLabelRPN": "RPN", "PseudoLabelROIHeads": "StandardROIHeads"}


def export_weights(checkpoint: str, network: str, output: str) -> None:
    """Write `{"model": weights}` of one network of a training checkpoint, atomically.

    Args:
        checkpoint: file that the training of a `TeacherStudent` wrote.
        network: "student" or "teacher".
        output: file to write.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, unsafe or holds no such network.
    """
    weights = network_weights(load_weights(checkpoint, "--checkpoint"), network, checkpoint)
    with atomic_write(output) as file:
        torch.save({"model": weights}, file)


def plain_config(cfg: CfgNode, weights: str) -> CfgNode:
    """Return Detectron2's own configuration of the network that `cfg` trains.

    Args:
        cfg: complete configuration with our keys.
        weights: value of MODEL.WEIGHTS.

    Returns:
        a configuration with Detectron2's keys alone: GeneralizedRCNN with its own RPN and heads. Data sets that only
        we register are left out.

    Raises:
        ValueError: the student is no Mask R-CNN, or only this package registers its backbone.
    """
    if cfg.S4M.STUDENT != "S4MRCNN":
        raise ValueError(f"S4M.STUDENT is '{cfg.S4M.STUDENT}'; only S4MRCNN has a counterpart in Detectron2.")
    backbone = cfg.MODEL.BACKBONE.NAME
    if backbone in BACKBONE_REGISTRY and BACKBONE_REGISTRY.get(backbone).__module__.startswith("s4m."):
        raise ValueError(
            f"MODEL.BACKBONE.NAME is '{backbone}', which this package registers; Detectron2 cannot build it."
        )
    plain = get_cfg()
    _copy_values(cfg, plain)
    plain.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    plain.MODEL.WEIGHTS = weights
    for node in (plain.MODEL.PROPOSAL_GENERATOR, plain.MODEL.ROI_HEADS):
        node.NAME = _PLAIN_NAMES.get(node.NAME, node.NAME)
    plain.DATASETS.TRAIN = ()
    plain.DATASETS.TEST = tuple(name for name in cfg.DATASETS.TEST if ":" not in name)
    return plain


def _copy_values(source: CfgNode, target: CfgNode) -> None:
    """Set every key of `target` to its value in `source`."""
    for key, value in target.items():
        if isinstance(value, CfgNode):
            _copy_values(source[key], value)
        else:
            target[key] = source[key]
