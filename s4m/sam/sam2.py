"""SAM 2 and 2.1 on images, from the extra transformers; checkpoints are local folders in the hub's layout."""

import torch
from torch import nn
from torch.nn import functional as F

from s4m.sam.hub import HUB, HubSegmenter, image_config, load_network, read_config, require_class, wrong_folder
from s4m.sam.segmenter import SEGMENTERS
from s4m.sam.structures import Frame, Prompts

PUBLISHED_AT = f"{HUB}/facebook"
# The width of the first stage and the blocks of the four stages tell the sizes of checkpoints apart.
_SIZES = {
    "tiny": (96, (1, 2, 7, 2)),
    "small": (96, (1, 2, 11, 2)),
    "base_plus": (112, (2, 3, 16, 3)),
    "large": (144, (2, 6, 36, 4)),
}


class Sam2Segmenter(HubSegmenter):
    """A segmenter whose network is a `transformers.Sam2Model`.

    SAM 2 stretches an image to its square input instead of padding it, so that each cell is valid. Its decoder also
    sees features of strides 4 and 8, which have C/8 and C/4 channels. Pixel unshuffle folds them into 16 * C/8 = 2 C
    and 4 * C/4 = C channels of stride 16, so that the embedding is one tensor (B, C + C + 2 C, h, w): for C = 256 and
    an input of 1024 pixels, (B, 1024, 64, 64). Tokens have C channels.
    """

    def frame(self, image_size: tuple[int, int]) -> Frame:
        return Frame(tuple(image_size), (self.side, self.side), self.side)

    def token_shape(self, features: torch.Tensor) -> torch.Size:
        return torch.Size((features.shape[1] // 4, *features.shape[2:]))

    def embed(self, images: list[torch.Tensor]) -> torch.Tensor:
        fine, middle, coarse = self.network.get_image_embeddings(self._normalize(torch.stack(images)))
        return torch.cat([coarse, F.pixel_unshuffle(middle, 2), F.pixel_unshuffle(fine, 4)], dim=1)

    def _unfold(self, features: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Split (N, 4 C, h, w) into features (N, C, h, w) of stride 16, and those of strides 4 and 8."""
        channels = features.shape[1] // 4
        coarse, middle, fine = features.split([channels, channels, 2 * channels], dim=1)
        return coarse, [F.pixel_shuffle(fine, 4), F.pixel_shuffle(middle, 2)]

    def answer(self, features: torch.Tensor, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        coarse, finer = self._unfold(features)
        sparse, dense = self._embed_prompts(prompts)
        masks, quality, _, _ = self.network.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self._position(coarse),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            high_resolution_features=finer,
        )
        return masks[:, 0], quality[:, 0]

    def image_tokens(self, features: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        decoder = self.network.mask_decoder
        own = [decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens]
        return self._tokens_of(self._unfold(features)[0], own, prompts)


def load_sam2(name: str, folder: str) -> nn.Module:
    """Load a `transformers.Sam2Model` from a folder with config.json and model.safetensors, the hub's layout.

    The name "sam2" takes any version and size. Further parts of a video model are left out. Errors are those of
    `build_segmenter`.
    """
    transformers = require_class(name, "Sam2Model")
    published_at = f"{PUBLISHED_AT}/{name.replace('_', '-')}" if name != "sam2" else PUBLISHED_AT
    config, wrong = read_config(name, folder, published_at), wrong_folder(name, folder)
    try:
        backbone = config.vision_config.backbone_config
        layout = (backbone.hidden_size, tuple(backbone.blocks_per_stage))
        image = image_config(config, transformers.Sam2Config)
    except Exception as error:  # Other and damaged configurations raise many types.
        raise ValueError(f"{wrong}: its config.json is not that of a SAM 2.") from error
    size = next((size for size, known in _SIZES.items() if known == layout), "")
    # Only the configuration of the video model, which is the published one, tells the versions apart.
    version = {True: "sam2.1", False: "sam2"}.get(getattr(config, "enable_occlusion_spatial_embedding", None), "")
    wanted_version, _, wanted_size = name.partition("_hiera_")
    if name != "sam2" and (size != wanted_size or version not in ("", wanted_version)):
        raise ValueError(f"{wrong}; it seems to be one of {version or 'sam2'}_hiera_{size or '(another size)'}.")
    return load_network(name, transformers.Sam2Model, image, folder, published_at)


def _build(name: str, checkpoint: str, device: torch.device | str, chunk: int) -> Sam2Segmenter:
    return Sam2Segmenter(name, load_sam2(name, checkpoint), device, chunk)


_NAMES = [f"{version}_hiera_{size}" for version in ("sam2", "sam2.1") for size in _SIZES]
SEGMENTERS.update(dict.fromkeys(("sam2", *_NAMES), _build))
