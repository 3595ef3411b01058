"""Segmenters of transformers (the extra transformers); checkpoints are local folders in the hub's layout."""

from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from d2kit.require import require_extra
from s4m.sam.segment_anything import CHECKPOINT_KEY
from s4m.sam.segmenter import PromptableSegmenter
from s4m.sam.structures import Prompts

HUB = "https://huggingface.co"
# Points and cells share one positional encoding, which a file may hold under either name or under both.
_POSITION = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


class HubSegmenter(PromptableSegmenter):
    """A segmenter whose network is one of transformers' SAMs, with `vision_encoder`, `prompt_encoder`, `mask_decoder`.

    Attributes:
        mean, std: normalization of red, green and blue values 0..255.
    """

    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def __init__(self, name: str, network: nn.Module, device: torch.device | str = "cpu", chunk: int = 0):
        super().__init__(name, network, network.config.prompt_encoder_config.image_size, device, chunk)

    def _normalize(self, image: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (self.mean, self.std))
        return (image - mean) / std

    def _tokens_of(self, coarse: torch.Tensor, own: list[nn.Embedding], prompts: Prompts) -> torch.Tensor:
        """Return the image tokens (N, C, h, w) for features of this shape and the decoder's own query tokens."""
        sparse, dense = self._embed_prompts(prompts)
        queries = torch.cat([part.weight for part in own]).expand(len(sparse), 1, -1, -1)
        _, tokens = self.network.mask_decoder.transformer(
            point_embeddings=torch.cat([queries, sparse], dim=2),
            image_embeddings=coarse + dense,
            image_positional_embeddings=self._position(coarse),
            attention_similarity=None,
        )
        return tokens[:, 0].transpose(1, 2).reshape(coarse.shape)

    def _position(self, coarse: torch.Tensor) -> torch.Tensor:
        return self.network.get_image_wide_positional_embeddings().expand_as(coarse)

    def _embed_prompts(self, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        points = prompts.points[:, None] if prompts.points.shape[1] else None
        boxes = None if prompts.boxes is None else prompts.boxes[:, None]
        return self.network.prompt_encoder(points, prompts.labels[:, None].long(), boxes, None)


def require_class(name: str, model: str) -> ModuleType:
    """Return transformers, or raise an ImportError if it is missing or has no class `model`, which `name` needs."""
    transformers = require_extra("transformers", "transformers")
    if not hasattr(transformers, model):
        raise ImportError(f"{name} needs transformers 5 or newer, but {transformers.__version__} is installed.")
    return transformers


def read_config(name: str, folder: str, published_at: str) -> object:
    """Read the config.json of a checkpoint's folder in the hub's layout.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: transformers knows no such configuration.
    """
    transformers = require_extra("transformers", "transformers")
    for file in ("config.json", "model.safetensors"):
        if not folder or not Path(folder, file).is_file():
            raise FileNotFoundError(
                f"{CHECKPOINT_KEY} names the folder '{folder}', which holds no '{file}'. "
                f"{name} is published at {published_at}."
            )
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # Damaged files raise many types.
        wrong = wrong_folder(name, folder)
        raise ValueError(f"{wrong}: its config.json is not that of a network of transformers.") from error


def wrong_folder(name: str, folder: str) -> str:
    """Return the beginning of the message on a folder that is no checkpoint of `name`."""
    return f"{CHECKPOINT_KEY}: '{folder}' is not a checkpoint of {name}"


def image_config(config: object, kind: type) -> object:
    """Return the configuration of class `kind` of an image model, from that of an image or a video model."""
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    return kind(**{part: getattr(config, part).to_dict() for part in parts})


def load_network(
    name: str, kind: type, config: object, folder: str, published_at: str, state: dict | None = None
) -> nn.Module:
    """Load a network of transformers in float32; further weights in the folder, of a video model, are left out.

    Args:
        name: name of the segmenter, for messages.
        kind: class of the network.
        config: its configuration.
        folder: folder in the hub's layout.
        published_at: where the checkpoint is published, for messages.
        state: weights under the network's names, where those of the file are others.

    Raises:
        ValueError: weights are missing, or have other names or shapes.
    """
    wrong = wrong_folder(name, folder)
    source = {"pretrained_model_name_or_path": None if state else folder, "state_dict": state}
    try:
        network, report = kind.from_pretrained(
            **source, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # Damaged files raise many types.
        raise ValueError(f"{wrong}: its weights have other names or shapes. See {published_at}.") from error
    missing = set(report["missing_keys"])
    if missing and (len(missing) > 1 or not missing <= set(_POSITION)):
        raise ValueError(f"{wrong}: '{min(missing)}' is missing in its weights. See {published_at}.")
    for absent in missing:
        (present,) = set(_POSITION) - {absent}
        network.get_buffer(absent).copy_(network.get_buffer(present))
    return network.float()
