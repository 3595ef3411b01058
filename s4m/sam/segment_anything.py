"""Segmenters of segment-anything's parts: its ViT-B, ViT-L and ViT-H, and networks that share its decoder."""

from collections.abc import Callable

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam

from d2kit.files import load_weights, require_tensors
from s4m.sam.segmenter import SEGMENTERS, PromptableSegmenter
from s4m.sam.structures import Prompts

CHECKPOINT_KEY = "S4M.SAM.CHECKPOINT"
PUBLISHED_AT = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


class SamSegmenter(PromptableSegmenter):
    """A segmenter whose network is a `segment_anything.modeling.Sam` with any image encoder."""

    def __init__(self, name: str, network: Sam, device: torch.device | str = "cpu", chunk: int = 0):
        super().__init__(name, network, network.image_encoder.img_size, device, chunk)

    def embed(self, images: list[torch.Tensor]) -> torch.Tensor:
        return self.network.image_encoder(torch.stack([self.network.preprocess(image) for image in images]))

    def answer(self, features: torch.Tensor, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        sparse, dense = self._embed_prompts(prompts)
        return self.network.mask_decoder(
            # The decoder repeats the features of one image. They are zero, and each prompt brings its own.
            image_embeddings=features.new_zeros(1, 1, 1, 1),
            image_pe=self.network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense + features,
            multimask_output=True,
        )

    def image_tokens(self, features: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        decoder = self.network.mask_decoder
        sparse, dense = self._embed_prompts(prompts)
        queries = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(sparse), -1, -1)
        position = self.network.prompt_encoder.get_dense_pe().expand_as(features)
        _, tokens = decoder.transformer(dense + features, position, torch.cat([queries, sparse], dim=1))
        return tokens.transpose(1, 2).reshape(features.shape)

    def _embed_prompts(self, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        points = (prompts.points, prompts.labels) if prompts.points.shape[1] else None
        return self.network.prompt_encoder(points=points, boxes=prompts.boxes, masks=None)


def guess_model(state: dict) -> str | None:
    """Return the name of the model that a checkpoint seems to be of, or None."""
    if "model" in state and isinstance(state["model"], dict):
        return "sam2" if any("image_encoder.trunk" in key for key in state["model"]) else None
    if "image_encoder.stride2.0.0.weight" in state:
        return "tiny"
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
        return "mobile_sam"
    patches = state.get("image_encoder.patch_embed.proj.weight")
    return None if patches is None else _WIDTHS.get(patches.shape[0])


def load_sam(
    name: str, build: Callable[[], Sam], path: str, key: str, published_at: str, convert: Callable[[dict], dict] = dict
) -> Sam:
    """Build a model and load a checkpoint into it, strictly.

    Args:
        name: name of the model, for messages.
        build: function that makes the model, with any weights.
        path: path of the checkpoint.
        key: configuration key that holds the path, for messages.
        published_at: where such checkpoints are published, for messages.
        convert: function from the checkpoint's state to that of the model.

    Raises:
        FileNotFoundError, ValueError: see `build_segmenter`.
    """
    state = load_weights(path, key, published_at)
    require_tensors(state.get("model", state), path)
    guess = guess_model(state)
    wrong = f"{key}: '{path}' is not a checkpoint of {name}"
    if guess not in (None, name):
        raise ValueError(f"{wrong}; it seems to be one of {guess}.")
    sam = build()
    try:
        sam.load_state_dict(convert(state))
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise ValueError(f"{wrong}: its weights have other names or shapes. See {published_at}.") from error
    return sam


def _build(name: str, checkpoint: str, device: torch.device | str, chunk: int) -> SamSegmenter:
    sam = load_sam(name, sam_model_registry[name], checkpoint, CHECKPOINT_KEY, PUBLISHED_AT)
    return SamSegmenter(name, sam, device, chunk)


SEGMENTERS.update(dict.fromkeys(("vit_b", "vit_l", "vit_h"), _build))
