"""transformers' Mask2Former behind any Detectron2 backbone, built from a configuration or a checkpoint of the hub."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from fvcore.nn import weight_init
from torch import nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

from s4m.modeling.normalization import require_imagenet_rgb

STRIDES = (4, 8, 16, 32)
_LOSS_WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, "no_object_weight": 0.1}
_LISTED_WEIGHTS = 8  # A message names at most this many weights.
_SHAPED_BY_CLASSES = ("class_predictor.", "criterion.")  # The shapes of these weights follow the number of classes.
# The norm behind Swin's last stage feeds no map, and published files lack it.
_NOT_IN_FILES = ("criterion.", "model.pixel_level_module.encoder.swin.layernorm.")


@dataclass(frozen=True)
class Mask2FormerOutput:
    """The head's output for a batch; lists have an entry for the learned queries and one for each decoder layer.

    Attributes:
        class_logits: (B, Q, K+1) for each entry; the last class is "no object".
        mask_logits: (B, Q, h, w) for each entry, at a quarter of the padded input.
        pixel_features: (B, C, h, w) float32, the pixel decoder's mask features.
    """

    class_logits: list[torch.Tensor]
    mask_logits: list[torch.Tensor]
    pixel_features: torch.Tensor


class Mask2FormerHead(Mask2FormerPreTrainedModel):
    """Pixel decoder, transformer decoder and class predictor of transformers' Mask2Former.

    New weights are drawn as the paper's authors draw them. transformers does so for attention and decoder, but it
    leaves convolutions, encoder and class predictor at a standard deviation of 0.02. A narrow network that starts from
    there gives one empty mask for all queries for a thousand iterations.
    """

    def __init__(self, config: Mask2FormerConfig, channels: list[int]):
        """
        Args:
            config: transformers' configuration; its backbone takes no part.
            channels: numbers of channels of the four feature maps, finest first.
        """
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, feature_channels=channels)
        self.transformer_module = Mask2FormerTransformerModule(in_features=config.feature_size, config=config)
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        self.post_init()
        self.apply(self._init_weights)
        for module in self.pixel_decoder.modules():
            if isinstance(module, nn.Conv2d):
                weight_init.c2_xavier_fill(module)
        for layer in self.pixel_decoder.encoder.layers:
            nn.init.xavier_uniform_(layer.fc1.weight)
            nn.init.xavier_uniform_(layer.fc2.weight)
        self.class_predictor.reset_parameters()

    def forward(self, features: list[torch.Tensor]) -> Mask2FormerOutput:
        """Predict from four maps (B, C_i, h_i, w_i) of strides 4, 8, 16 and 32."""
        # Deformable attention samples at positions that half precision cannot tell apart.
        with torch.autocast(features[0].device.type, enabled=False):
            pixels = self.pixel_decoder([feature.float() for feature in features], return_dict=True)
        decoded = self.transformer_module(
            multi_scale_features=pixels.multi_scale_features, mask_features=pixels.mask_features
        )
        class_logits = [self.class_predictor(states.transpose(0, 1)) for states in decoded.intermediate_hidden_states]
        return Mask2FormerOutput(class_logits, list(decoded.masks_queries_logits), pixels.mask_features)


class TransformersBackbone(Backbone):
    """A backbone of transformers (a Swin of the hub's checkpoints) with Detectron2's interface: res2 to res5.

    The network turns (B, 3, H, W) into `feature_maps`, whose numbers of channels are its `channels`.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.bottom_up = network
        names = [f"res{level}" for level in range(2, 6)]
        self._out_features = names
        self._out_feature_channels = dict(zip(names, network.channels, strict=True))
        self._out_feature_strides = dict(zip(names, STRIDES, strict=True))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turn (B, 3, H, W) into {name: (B, C, H / stride, W / stride)}."""
        return dict(zip(self._out_features, self.bottom_up(x).feature_maps, strict=True))


def head_config(cfg: CfgNode) -> Mask2FormerConfig:
    """Return transformers' configuration for MODEL.MASK2FORMER and MODEL.ROI_HEADS.NUM_CLASSES."""
    node = cfg.MODEL.MASK2FORMER
    if node.HIDDEN % 32 or node.HIDDEN % node.HEADS:
        raise ValueError(f"MODEL.MASK2FORMER.HIDDEN is {node.HIDDEN}, but must be a multiple of 32 and of HEADS.")
    return Mask2FormerConfig(
        num_labels=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        feature_size=node.HIDDEN,
        mask_feature_size=node.HIDDEN,
        hidden_dim=node.HIDDEN,
        num_queries=node.QUERIES,
        encoder_layers=node.ENCODER_LAYERS,
        decoder_layers=node.DECODER_LAYERS + 1,  # transformers counts the learned queries' prediction, too.
        num_attention_heads=node.HEADS,
        encoder_feedforward_dim=node.ENCODER_FEEDFORWARD,
        dim_feedforward=node.FEEDFORWARD,
        train_num_points=node.POINTS,
        **_LOSS_WEIGHTS,
    )


def build_head(cfg: CfgNode, shape: dict[str, ShapeSpec]) -> Mask2FormerHead:
    """Build a new head on the backbone outputs that MODEL.MASK2FORMER.IN_FEATURES names.

    Raises:
        ValueError: the outputs are missing or do not have the strides 4, 8, 16, 32.
    """
    names = cfg.MODEL.MASK2FORMER.IN_FEATURES
    strides = [shape[name].stride if name in shape else None for name in names]
    if strides != list(STRIDES):
        known = {name: spec.stride for name, spec in shape.items()}
        raise ValueError(
            f"MODEL.MASK2FORMER.IN_FEATURES {list(names)} must have the strides {STRIDES}; the backbone gives {known}."
        )
    return Mask2FormerHead(head_config(cfg), [shape[name].channels for name in names])


def _check_folder(folder: str) -> None:
    config = Path(folder, "config.json")
    if not config.is_file():
        raise FileNotFoundError(
            f"MODEL.MASK2FORMER.PRETRAINED names '{folder}', which is no folder with a config.json and weights; such "
            "checkpoints are published at https://huggingface.co/models?search=mask2former."
        )
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"MODEL.MASK2FORMER.PRETRAINED: '{config}' cannot be read ({error}).") from error
    if model_type != "mask2former":
        raise ValueError(f"MODEL.MASK2FORMER.PRETRAINED: '{config}' describes a {model_type}, not a mask2former.")


def _check_report(folder: str, report: dict) -> None:
    """Raise a ValueError if the folder lacks weights, or if shapes differ by more than the number of classes."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_NOT_IN_FILES))
    if missing:
        raise ValueError(f"MODEL.MASK2FORMER.PRETRAINED: '{folder}' lacks {len(missing)} weights, as '{missing[0]}'.")
    reshaped = sorted(key for key, *_ in report["mismatched_keys"] if not key.startswith(_SHAPED_BY_CLASSES))
    if reshaped:
        raise ValueError(
            f"MODEL.MASK2FORMER.PRETRAINED: '{folder}' holds {len(reshaped)} weights of another shape than its "
            f"config.json says: {', '.join(reshaped[:_LISTED_WEIGHTS])}{', ...' * (len(reshaped) > _LISTED_WEIGHTS)}."
        )


def load_pretrained(cfg: CfgNode) -> tuple[TransformersBackbone, Mask2FormerHead]:
    """Load backbone and head of a checkpoint in the hub's layout from the folder MODEL.MASK2FORMER.PRETRAINED.

    The sizes come from the folder's config.json. With another number of classes the class predictor starts anew.

    Raises:
        FileNotFoundError, ValueError: the folder holds no Mask2Former whose weights load, or images would not be
            normalized as its backbone expects.
    """
    folder = cfg.MODEL.MASK2FORMER.PRETRAINED
    require_imagenet_rgb(cfg, "MODEL.MASK2FORMER.PRETRAINED")
    _check_folder(folder)
    try:
        whole, report = Mask2FormerForUniversalSegmentation.from_pretrained(
            folder,
            local_files_only=True,
            weights_only=True,
            num_labels=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
            train_num_points=cfg.MODEL.MASK2FORMER.POINTS,
            **_LOSS_WEIGHTS,
        )
    except Exception as error:  # Damaged files raise many types, such as KeyError and SafetensorError.
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"MODEL.MASK2FORMER.PRETRAINED: '{folder}' does not load: {reason}") from error
    _check_report(folder, report)
    level = whole.model.pixel_level_module
    if hasattr(level.encoder, "swin"):
        level.encoder.swin.layernorm = nn.Identity()  # DDP waits for the gradient of every weight.
    head = Mask2FormerHead(whole.config, level.encoder.channels)
    head.pixel_decoder = level.decoder
    head.transformer_module = whole.model.transformer_module
    head.class_predictor = whole.class_predictor
    return TransformersBackbone(level.encoder), head
