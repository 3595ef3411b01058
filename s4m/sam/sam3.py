"""The tracker of SAM 3 on images, which answers points and boxes as SAM 2 does."""

import torch
from safetensors.torch import load_file
from torch import nn

from s4m.sam.hub import HUB, image_config, load_network, read_config, require_class, wrong_folder
from s4m.sam.sam2 import Sam2Segmenter
from s4m.sam.segmenter import SEGMENTERS

PUBLISHED_AT = f"{HUB}/facebook/sam3"
_KINDS = ("sam3_video", "sam3_tracker_video", "sam3_tracker")  # the published model, and its tracker alone
# The published file holds a detector and a tracker, which share the backbone.
_PREFIXES = {
    "detector_model.vision_encoder.backbone.": "vision_encoder.backbone.",
    "tracker_neck.": "vision_encoder.neck.",
    "tracker_model.": "",
}


class Sam3Segmenter(Sam2Segmenter):
    """A segmenter whose network is a `transformers.Sam3TrackerModel`; its cells have 14 pixels."""

    mean = std = (127.5, 127.5, 127.5)


def _rename(key: str) -> str:
    prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), "")
    return _PREFIXES.get(prefix, "") + key.removeprefix(prefix)


def load_sam3(name: str, folder: str) -> nn.Module:
    """Load the tracker of a folder with SAM 3, which is published as a video model, or with its tracker alone.

    Errors are those of `build_segmenter`.
    """
    transformers = require_class(name, "Sam3TrackerModel")
    config, wrong = read_config(name, folder, PUBLISHED_AT), wrong_folder(name, folder)
    if config.model_type not in _KINDS:
        raise ValueError(f"{wrong}: its config.json is that of a {config.model_type}.")
    config = image_config(getattr(config, "tracker_config", config), transformers.Sam3TrackerConfig)
    try:
        state = {_rename(key): value for key, value in load_file(f"{folder}/model.safetensors").items()}
    except Exception as error:  # The exceptions of safetensors have no other common base.
        raise ValueError(f"{wrong}: its model.safetensors is damaged. See {PUBLISHED_AT}.") from error
    return load_network(name, transformers.Sam3TrackerModel, config, folder, PUBLISHED_AT, state)


def _build(name: str, checkpoint: str, device: torch.device | str, chunk: int) -> Sam3Segmenter:
    return Sam3Segmenter(name, load_sam3(name, checkpoint), device, chunk)


SEGMENTERS["sam3"] = _build
