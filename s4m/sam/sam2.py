"""SAM 2 and 2.1 on images, from the extra transformers; checkpoints are local folders in the hub's layout."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from d2kit.require import require_extra
from s4m.sam.segment_anything import CHECKPOINT_KEY
from s4m.sam.segmenter import SEGMENTERS, PromptableSegmenter
from s4m.sam.structures import Frame, Prompts

PUBLISHED_AT = "https://huggingface.co/facebook"
# The width of the first stage and the blocks of the four stages tell the sizes of checkpoints apart.
_SIZES = {
    "tiny": (96, (1, 2, 7, 2)),
    "small": (96, (1, 2, 11, 2)),
    "base_plus": (112, (2, 3, 16, 3)),
    "large": (144, (2, 6, 36, 4)),
}
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)
# Points and cells share one positional encoding, which a file may hold under either name or under both.
_POSITION = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


class Sam2Segmenter(PromptableSegmenter):
    """A segmenter whose network is a `transformers.Sam2Model`.

    SAM 2 stretches an image to its square input instead of padding it, so that each cell is valid. Its decoder also
    sees features of strides 4 and 8, which have C/8 and C/4 channels. Pixel unshuffle folds them into 16 * C/8 = 2 C
    and 4 * C/4 = C channels of stride 16, so that the embedding is one tensor (B, C + C + 2 C, h, w): for C = 256 and
    an input of 1024 pixels, (B, 1024, 64, 64). Tokens have C channels.
    """

    def __init__(self, name: str, network: nn.Module, device: torch.device | str = "cpu", chunk: int = 0):
        super().__init__(name, network, network.config.prompt_encoder_config.image_size, device, chunk)

    def frame(self, image_size: tuple[int, int]) -> Frame:
        return Frame(tuple(image_size), (self.side, self.side), self.side)

    def token_shape(self, features: torch.Tensor) -> torch.Size:
        return torch.Size((features.shape[1] // 4, *features.shape[2:]))

    def embed(self, images: list[torch.Tensor]) -> torch.Tensor:
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (_MEAN, _STD))
        fine, middle, coarse = self.network.get_image_embeddings((torch.stack(images) - mean) / std)
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
        coarse, _ = self._unfold(features)
        sparse, dense = self._embed_prompts(prompts)
        own = torch.cat([part.weight for part in (decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens)])
        _, tokens = decoder.transformer(
            point_embeddings=torch.cat([own.expand(len(sparse), 1, -1, -1), sparse], dim=2),
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


def _read_config(name: str, folder: str, wrong: str) -> object:
    """Read the `transformers.Sam2Config` of the model `name` in a folder; error messages begin with `wrong`."""
    transformers = require_extra("transformers", "transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        backbone = config.vision_config.backbone_config
        layout = (backbone.hidden_size, tuple(backbone.blocks_per_stage))
        parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
        image_config = transformers.Sam2Config(**{part: getattr(config, part).to_dict() for part in parts})
    except Exception as error:  # Damaged files raise many types.
        raise ValueError(f"{wrong}: its config.json is not that of a SAM 2.") from error
    size = next((size for size, known in _SIZES.items() if known == layout), "")
    # Only the configuration of the video model, which is the published one, tells the versions apart.
    version = {True: "sam2.1", False: "sam2"}.get(getattr(config, "enable_occlusion_spatial_embedding", None), "")
    if size != name.partition("_hiera_")[2] or version not in ("", name.partition("_")[0]):
        raise ValueError(f"{wrong}; it seems to be one of {version or 'sam2'}_hiera_{size or '(another size)'}.")
    return image_config


def load_sam2(name: str, folder: str) -> nn.Module:
    """Load a `transformers.Sam2Model` from a folder with config.json and model.safetensors, the hub's layout.

    Further parts of a video model are left out. Errors are those of `build_segmenter`.
    """
    transformers = require_extra("transformers", "transformers")
    published_at = f"{PUBLISHED_AT}/{name.replace('_', '-')}"
    for file in ("config.json", "model.safetensors"):
        if not folder or not Path(folder, file).is_file():
            raise FileNotFoundError(
                f"{CHECKPOINT_KEY} names the folder '{folder}', which holds no '{file}'. "
                f"{name} is published at {published_at}."
            )
    wrong = f"{CHECKPOINT_KEY}: '{folder}' is not a checkpoint of {name}"
    config = _read_config(name, folder, wrong)
    try:
        network, report = transformers.Sam2Model.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
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


def _build(name: str, checkpoint: str, device: torch.device | str, chunk: int) -> Sam2Segmenter:
    return Sam2Segmenter(name, load_sam2(name, checkpoint), device, chunk)


SEGMENTERS.update(
    dict.fromkeys((f"{version}_hiera_{size}" for version in ("sam2", "sam2.1") for size in _SIZES), _build)
)
