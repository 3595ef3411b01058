"""Frozen vision foundation models (VFMs), whose hidden states are token maps; only training uses them."""

import copy
import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2kit.files import load_weights
from d2kit.rng import seeded
from d2kit.vit import build_timm_vit, load_strictly

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SAM_PREFIX = "sam_"
RANDOM = "random"
KEY = "ISTD.VFM.CHECKPOINT"


class FrozenVFM:
    """A frozen ViT in eval mode that gives its last K hidden states as token maps.

    The class is deliberately not an `nn.Module`: a network that holds it as an attribute does not get its weights,
    parameters or train mode, DDP ignores it, and deep copies of the network share it. It moves to the images' device.

    Attributes:
        name: model name.
        feature_dim: channels of the token maps.
        layers: number K of token maps.
        patch_size: side of a token in pixels of the resized image.
    """

    def __init__(self, name: str, model: nn.Module, *, feature_dim: int, patch_size: int, layers: int):
        blocks = len(model.blocks)
        if not 1 <= layers <= blocks + 1:
            raise ValueError(
                f"{name} has {blocks} blocks and so {blocks + 1} hidden states, but {layers} are required."
            )
        self.name = name
        self.feature_dim = feature_dim
        self.patch_size = patch_size
        self.layers = layers
        self._blocks = blocks
        self._model = model.eval().requires_grad_(False)
        self._fingerprint = ""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the token maps of the last K hidden states, first to last; K = blocks + 1 includes the embedding.

        Args:
            images: (B, 3, H, W) RGB or (B, 1, H, W) gray, float in [0, 1] or uint8. They are resized (bilinear,
                antialiased) to the nearest multiples of the patch size and normalized with ImageNet's mean and std.

        Returns:
            K tensors (B, feature_dim, h, w) without gradient, before the final norm, without class and register tokens.
            Example: a 256x256 image for a patch size of 14 is resized to 252x252 and gives maps of 18x18 tokens.
        """
        self._model.to(images.device)
        with torch.no_grad():
            return self._hidden_states(self.prepare(images))

    def prepare(self, images: Tensor) -> Tensor:
        """Resize and normalize images to the (B, 3, h * patch_size, w * patch_size) tensor that the model sees."""
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        size = [max(1, round(side / self.patch_size)) * self.patch_size for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (images.expand(-1, 3, -1, -1) - mean) / std

    def _hidden_states(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def train(self, mode: bool = True) -> "FrozenVFM":
        """Do nothing; the model always stays in eval mode."""
        return self

    @property
    def fingerprint(self) -> str:
        """Hash of name and weights; equal fingerprint, layers and image give equal features."""
        if not self._fingerprint:
            state = hashlib.blake2b(self.name.encode(), digest_size=8)
            for tensor in self.weights().values():
                state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._fingerprint = state.hexdigest()
        return self._fingerprint

    def weights(self) -> dict[str, Tensor]:
        """Return the state dict of the model as it was built, whatever image sizes it has seen."""
        return self._model.state_dict()

    def __deepcopy__(self, memo: dict) -> "FrozenVFM":
        return self


class TimmVFM(FrozenVFM):
    """A timm ViT with patch tokens (plain, DINOv2, DINOv3 with rotary positions and registers), at any image size.

    A learned position embedding is resampled to the image's grid bicubically and without antialiasing, as in DINOv2.
    """

    def __init__(self, name: str, model: nn.Module, *, layers: int):
        size = model.patch_embed.patch_size
        super().__init__(name, model, feature_dim=model.embed_dim, patch_size=size[0], layers=layers)
        self._grid = tuple(model.patch_embed.grid_size)
        position = getattr(model, "pos_embed", None)
        self._position = None if position is None else (copy.deepcopy(position.detach()), self._grid)

    def weights(self) -> dict[str, Tensor]:
        """Return the state dict with the position embedding as the checkpoint has it."""
        own = {} if self._position is None else {"pos_embed": self._position[0]}
        return super().weights() | own

    def _hidden_states(self, x: Tensor) -> list[Tensor]:
        grid = tuple(side // self.patch_size for side in x.shape[-2:])
        self._fit_position(grid)
        embeddings = []
        hook = self._model.blocks[0].register_forward_pre_hook(lambda _, inputs: embeddings.append(inputs[0]))
        try:
            states = self._model.forward_intermediates(
                x, indices=min(self.layers, self._blocks), intermediates_only=True, output_fmt="NCHW"
            )
        finally:
            hook.remove()
        if self.layers == self._blocks + 1:
            tokens = embeddings[0][:, self._model.num_prefix_tokens :]
            states.insert(0, tokens.unflatten(1, grid).permute(0, 3, 1, 2).contiguous())
        return states

    def _fit_position(self, grid: tuple[int, int]) -> None:
        if self._position is None or grid == self._grid:
            return
        from timm.layers import resample_abs_pos_embed

        position, native = self._position
        model = self._model
        model.set_input_size(img_size=tuple(side * self.patch_size for side in grid))
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        model.pos_embed.data = resample_abs_pos_embed(
            position.to(model.pos_embed.device), list(grid), list(native), prefix, antialias=False
        )
        self._grid = grid


class SegmentAnythingVFM(FrozenVFM):
    """The image encoder of segment-anything (before its neck), at any image size.

    The 64x64 position embedding is resampled bicubically to the image's grid. Segment-anything itself interpolates the
    relative positions of the global blocks.
    """

    def __init__(self, name: str, model: nn.Module, *, layers: int):
        projection = model.patch_embed.proj
        super().__init__(
            name, model, feature_dim=projection.out_channels, patch_size=projection.kernel_size[0], layers=layers
        )

    def _hidden_states(self, x: Tensor) -> list[Tensor]:
        model = self._model
        x = model.patch_embed(x)
        position = model.pos_embed.permute(0, 3, 1, 2)
        if position.shape[-2:] != x.shape[1:3]:
            position = F.interpolate(position, size=x.shape[1:3], mode="bicubic", align_corners=False)
        states = [x + position.permute(0, 2, 3, 1)]
        for block in model.blocks:
            states.append(block(states[-1]))
        return [state.permute(0, 3, 1, 2).contiguous() for state in states[-self.layers :]]


def build_vfm(name: str, checkpoint: str = "", *, pretrained: bool = False, layers: int = 13) -> FrozenVFM:
    """Build a frozen foundation model.

    Args:
        name: a timm ViT ("vit_small_patch14_dinov2", "vit_small_plus_patch16_dinov3") or segment-anything's image
            encoder ("sam_vit_b", "sam_vit_l", "sam_vit_h").
        checkpoint: local file of the weights, loaded strictly: timm's layout, a DINOv2 or DINOv3 file of Meta, or a
            whole segment-anything file. "random" means untrained weights from a fixed seed, for tests and trials.
        pretrained: without a checkpoint, timm downloads its own weights (timm models only).
        layers: number K of hidden states; 13 are all hidden states of a 12-block ViT with the embedding output.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: the model is unknown, is not a ViT, has fewer hidden states, or the file belongs to another model.
    """
    if not checkpoint and not pretrained:
        raise ValueError(f"{KEY} is empty: name the local file of {name}'s weights, or let timm download them.")
    sam = name.startswith(SAM_PREFIX)
    if sam and not checkpoint:
        raise ValueError(f"{name} cannot be downloaded: {KEY} has to name its segment-anything file.")
    with seeded(0):
        model = _build_sam_encoder(name) if sam else build_timm_vit(name, pretrained and not checkpoint)
    if checkpoint and checkpoint != RANDOM:
        load_strictly(model, load_weights(checkpoint, KEY), name, checkpoint, "image_encoder." if sam else "")
    return SegmentAnythingVFM(name, model, layers=layers) if sam else TimmVFM(name, model, layers=layers)


def _build_sam_encoder(name: str) -> nn.Module:
    from segment_anything import sam_model_registry

    size = name.removeprefix(SAM_PREFIX)
    if size not in sam_model_registry:
        known = ", ".join(SAM_PREFIX + known for known in sam_model_registry if known != "default")
        raise ValueError(f"segment-anything has no model '{name}': choose one of {known}.")
    return sam_model_registry[size]().image_encoder
