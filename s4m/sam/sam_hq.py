"""SAM-HQ, whose decoder also sees an early layer of the image encoder, so that it follows thin parts."""

import torch
from torch import nn
from torch.nn import functional as F

from s4m.sam.hub import HUB, HubSegmenter, load_network, read_config, require_class, wrong_folder
from s4m.sam.segmenter import SEGMENTERS
from s4m.sam.structures import Prompts

PUBLISHED_AT = f"{HUB}/syscv-community"
_WIDTHS = {"sam_hq_vit_base": 768, "sam_hq_vit_large": 1024, "sam_hq_vit_huge": 1280}


class SamHqSegmenter(HubSegmenter):
    """A segmenter whose network is a `transformers.SamHQModel`.

    The embedding has the features and, after them, the first global layer of the encoder: (B, 256 + 768, 64, 64) for
    ViT-B. Tokens have the channels of the features. Answers have SAM's three masks in falling order of their quality,
    each with the correction of the HQ token added.
    """

    def token_shape(self, features: torch.Tensor) -> torch.Size:
        return torch.Size((self._channels, *features.shape[2:]))

    @property
    def _channels(self) -> int:
        return self.network.config.vision_config.output_channels

    def embed(self, images: list[torch.Tensor]) -> torch.Tensor:
        padded = [
            F.pad(self._normalize(image), (0, self.side - image.shape[2], 0, self.side - image.shape[1]))
            for image in images
        ]
        found = self.network.vision_encoder(torch.stack(padded))
        return torch.cat([found.last_hidden_state, found.intermediate_embeddings[0].permute(0, 3, 1, 2)], dim=1)

    def answer(self, features: torch.Tensor, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        coarse, early = features.tensor_split([self._channels], dim=1)
        sparse, dense = self._embed_prompts(prompts)
        masks, quality = self.network.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self._position(coarse),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            hq_token_only=False,
            intermediate_embeddings=[early.permute(0, 2, 3, 1)],
        )
        return masks[:, 0], quality[:, 0]

    def image_tokens(self, features: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        decoder = self.network.mask_decoder
        own = [decoder.iou_token, decoder.mask_tokens, decoder.hq_token]
        return self._tokens_of(features[:, : self._channels], own, prompts)


def load_sam_hq(name: str, folder: str) -> nn.Module:
    """Load a `transformers.SamHQModel` from a folder; errors are those of `build_segmenter`."""
    transformers = require_class(name, "SamHQModel")
    published_at = f"{PUBLISHED_AT}/{name.replace('_', '-')}" if name in _WIDTHS else PUBLISHED_AT
    config, wrong = read_config(name, folder, published_at), wrong_folder(name, folder)
    if config.model_type != "sam_hq":
        raise ValueError(f"{wrong}: its config.json is that of a {config.model_type}.")
    width = config.vision_config.hidden_size
    if _WIDTHS.get(name, width) != width:
        raise ValueError(f"{wrong}: its encoder has {width} channels in place of {_WIDTHS[name]}.")
    return load_network(name, transformers.SamHQModel, config, folder, published_at)


def _build(name: str, checkpoint: str, device: torch.device | str, chunk: int) -> SamHqSegmenter:
    return SamHqSegmenter(name, load_sam_hq(name, checkpoint), device, chunk)


SEGMENTERS.update(dict.fromkeys(("sam_hq", *_WIDTHS), _build))
