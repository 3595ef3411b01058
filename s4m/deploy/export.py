"""A trained network becomes files that need nothing of this package, or an ONNX file that holds its own recipe."""

import io
import json
import os
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.export import TracingAdapter
from detectron2.modeling import BACKBONE_REGISTRY, GeneralizedRCNN
from safetensors.torch import save as safetensors_bytes
from torch import nn

from d2kit.files import atomic_write, load_weights
from d2kit.require import require_extra
from s4m.deploy.onnx_predictor import INPUT, OUTPUTS
from s4m.deploy.recipe import METADATA, Recipe, write_metadata
from s4m.engine.weights import network_weights

# Detectron2's classes have the same weights as ours, and the same outputs in eval mode.
_PLAIN_NAMES = {"PseudoLabelRPN": "RPN", "PseudoLabelROIHeads": "StandardROIHeads"}

OPSET = 17
MASK_THRESHOLD = 0.5  # that of Detectron2


def make_recipe(cfg: CfgNode, class_names: list[str]) -> Recipe:
    """Return the recipe of the network that a configuration describes."""
    return Recipe(
        class_names=class_names,
        format=cfg.INPUT.FORMAT,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        value_range=cfg.INPUT.RANGE,
        score_threshold=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        mask_threshold=MASK_THRESHOLD,
        pixel_mean=list(cfg.MODEL.PIXEL_MEAN),
        pixel_std=list(cfg.MODEL.PIXEL_STD),
    )


def _predict(network: GeneralizedRCNN, inputs: list[dict]) -> tuple[torch.Tensor, ...]:
    """Return OUTPUTS."""
    found = network.inference(inputs, do_postprocess=False)[0]
    return found.pred_boxes.tensor, found.pred_classes, found.pred_masks, found.scores


def export_onnx(model: nn.Module, recipe: Recipe, path: str | os.PathLike) -> None:
    """Write a Mask R-CNN as an ONNX file, atomically.

    The graph takes `image`, (3, H, W) float32 in 0..255 of any size, resized as the recipe says. It normalizes and pads
    the image, suppresses doubles (NMS) and answers, in the frame of its input, `boxes` (N, 4) as x0, y0, x1, y1 in
    pixels, `classes` (N,) int64, `masks` (N, 1, S, S) probabilities in the frame of each box, and `scores` (N,). Masks
    are pasted into the image by `OnnxPredictor`, because a graph would hold N masks of the whole image at once.

    Args:
        model: a GeneralizedRCNN with masks, in eval mode.
        recipe: recipe of the network, which becomes the file's metadata.
        path: file to write.

    Raises:
        ValueError: the model is no Mask R-CNN.
        ImportError: onnx is not installed.
    """
    onnx = require_extra("onnx", "onnx")
    if not isinstance(model, GeneralizedRCNN) or not model.roi_heads.mask_on:
        raise ValueError(
            f"{type(model).__name__} cannot become an ONNX file: only Mask R-CNN can. Export .safetensors or a folder."
        )
    model = model.cpu()
    # Neither side is a multiple of the padding, so that no size is taken for another and the padding is traced.
    image = torch.rand(3, 100, 135, generator=torch.Generator().manual_seed(0)) * 255
    adapter = TracingAdapter(model, [{"image": image}], _predict).eval()
    axes = {INPUT: {1: "height", 2: "width"}} | {name: {0: "instances"} for name in OUTPUTS}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # Tracing warns of each comparison of sizes.
        # The exporter of torch.export cannot follow Detectron2's structures.
        torch.onnx.export(
            adapter,
            adapter.flattened_inputs,
            buffer,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    proto = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(proto, {METADATA: write_metadata(recipe)})
    onnx.checker.check_model(proto)
    with atomic_write(path) as file:
        file.write(proto.SerializeToString())


def export_weights(checkpoint: str, network: str, path: str | os.PathLike) -> None:
    """Write the weights of one network of a training checkpoint, atomically.

    Args:
        checkpoint: file that the training of a `TeacherStudent` wrote.
        network: "student" or "teacher".
        path: a .safetensors file, or another one, which gets `{"model": weights}` for Detectron2.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, unsafe or holds no such network.
    """
    weights = network_weights(load_weights(checkpoint, "--checkpoint"), network, checkpoint)
    weights = {name: value.contiguous() for name, value in weights.items()}
    with atomic_write(path) as file:
        if Path(path).suffix == ".safetensors":
            file.write(safetensors_bytes(weights, {"format": "pt"}))
        else:
            torch.save({"model": weights}, file)


def export_folder(checkpoint: str, network: str, architecture: str, recipe: Recipe, folder: str | os.PathLike) -> None:
    """Write a network as repositories of the Hugging Face hub have it: model.safetensors and config.json.

    config.json has the architecture, `id2label` and `label2id` of the classes, and the other fields of the recipe.

    Raises:
        FileNotFoundError, ValueError: see `export_weights`.
    """
    export_weights(checkpoint, network, Path(folder, "model.safetensors"))
    names = {str(number): name for number, name in enumerate(recipe.class_names)}
    labels = {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    fields = {key: value for key, value in asdict(recipe).items() if key != "class_names"}
    with atomic_write(Path(folder, "config.json"), "w") as file:
        json.dump({"model_type": "s4m", "architectures": [architecture], **labels, **fields}, file, indent=2)


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
