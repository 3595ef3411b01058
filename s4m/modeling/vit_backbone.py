"""timm networks as Detectron2 backbones: a ViT with a simple feature pyramid, or a hierarchical network as it is."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from d2kit.files import load_weights, require_tensors
from d2kit.rng import seeded
from d2kit.vit import build_timm_vit, load_strictly
from s4m.modeling.normalization import require_imagenet_rgb

RANDOM = "random"  # A checkpoint of this name stands for untrained weights from a fixed seed.
# For each stride of the token map: the factors by which the pyramid scales it to the strides 4, 8, ...
_SCALES = {16: (4.0, 2.0, 1.0, 0.5), 8: (2.0, 1.0, 0.5)}


class ViTTokens(nn.Module):
    """The first blocks of a timm ViT, at any image size.

    A learned position embedding is resampled to the image's grid bicubically and without antialiasing, as DINOv2 does;
    rotary positions follow the grid by themselves.
    """

    def __init__(self, model: nn.Module, layer: int):
        """
        Args:
            model: a network from `build_timm_vit`, which this module changes.
            layer: index of the block whose output is taken, counted from 0, or from the end if negative.
        """
        super().__init__()
        depth = len(model.blocks)
        if not -depth <= layer < depth:
            raise ValueError(f"MODEL.VIT.LAYER is {layer}, but the network has {depth} blocks.")
        model.prune_intermediate_layers([layer % depth], prune_norm=True, prune_head=True)
        self.model = model
        self._native_grid = tuple(model.patch_embed.grid_size)
        self._prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        self.pos_embed = model.pos_embed
        if self.pos_embed is not None:
            del model.pos_embed  # The resampled embedding takes the place of this parameter in each forward pass.

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn normalized images (B, 3, h * patch, w * patch) into tokens (B, C, h, w) of mean 0 and variance 1."""
        model = self.model
        grid = tuple(side // patch for side, patch in zip(images.shape[-2:], model.patch_embed.patch_size, strict=True))
        if self.pos_embed is not None:
            from timm.layers import resample_abs_pos_embed

            model.patch_embed.grid_size = grid
            # Assignment through __dict__ avoids a registration: at the native grid this is the parameter itself.
            model.__dict__["pos_embed"] = resample_abs_pos_embed(
                self.pos_embed, list(grid), list(self._native_grid), self._prefix, antialias=False
            )
        tokens = model.forward_intermediates(images, indices=1, intermediates_only=True, output_fmt="NCHW")[0]
        if self.pos_embed is not None:
            model.__dict__["pos_embed"] = None
        # The pyramid gets tokens of one scale, whatever block they come from.
        return F.layer_norm(tokens.permute(0, 2, 3, 1), tokens.shape[1:2]).permute(0, 3, 1, 2)


class ViTBackbone(Backbone):
    """A ViT whose tokens form one map, `tokens`, of a stride that is a power of two.

    The image is resized by patch size / stride, so that a patch of 14 pixels stands for `stride` pixels of the input.
    A frozen ViT is no submodule: it is in no checkpoint, optimizer or DDP bucket, and always in eval mode.
    """

    def __init__(self, network: ViTTokens, *, stride: int, frozen: bool):
        """
        Args:
            network: the ViT.
            stride: number of input pixels that a token stands for; the input's sides are multiples of it.
            frozen: whether the ViT stays untrained.
        """
        super().__init__()
        self.stride = stride
        self.frozen = frozen
        self.patch = network.model.patch_embed.patch_size[0]
        self.depth = len(network.model.blocks)
        if frozen:
            network.eval().requires_grad_(False)
            object.__setattr__(self, "network", network)  # It does not become a submodule.
        else:
            self.network = network
        self._out_features = ["tokens"]
        self._out_feature_channels = {"tokens": network.model.embed_dim}
        self._out_feature_strides = {"tokens": stride}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turn normalized RGB images (B, 3, H, W) into {"tokens": (B, C, H / stride, W / stride)}.

        Raises:
            ValueError: a side is no multiple of the stride.
        """
        if any(side % self.stride for side in x.shape[-2:]):
            raise ValueError(f"The sides of images must be multiples of {self.stride}, not {tuple(x.shape[-2:])}.")
        size = [side // self.stride * self.patch for side in x.shape[-2:]]
        if size != list(x.shape[-2:]):
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        if not self.frozen:
            return {"tokens": self.network(x)}
        self.network.to(x.device)
        with torch.no_grad():
            return {"tokens": self.network(x)}


class ViTFeaturePyramid(SimpleFeaturePyramid):
    """Detectron2's simple feature pyramid that has images padded, so that cells are where their strides say."""

    @property
    def size_divisibility(self) -> int:
        """The sides of the input are multiples of the largest stride except the pooled level's."""
        return self._size_divisibility


class TimmBackbone(Backbone):
    """A hierarchical network of timm (Swin, ConvNeXt, ...) without classifier that gives res2 to res5."""

    size_divisibility = 32  # The sides of the input are multiples of this number.

    def __init__(self, model: nn.Module):
        super().__init__()
        stages = list(model.feature_info)[-4:]
        strides = [stage["reduction"] for stage in stages]
        if strides != [4, 8, 16, 32] or not hasattr(model, "forward_intermediates"):
            raise ValueError(f"MODEL.TIMM.NAME: the last stages have the strides {strides}, not 4, 8, 16, 32.")
        model.prune_intermediate_layers(4, prune_norm=True, prune_head=True)
        self.bottom_up = model
        self._out_features = [f"res{level}" for level in range(2, 6)]
        self._out_feature_channels = dict(zip(self._out_features, [s["num_chs"] for s in stages], strict=True))
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turn (B, 3, H, W) into {name: (B, C, H / stride, W / stride)}."""
        maps = self.bottom_up.forward_intermediates(x, indices=4, intermediates_only=True, output_fmt="NCHW")
        return dict(zip(self._out_features, maps, strict=True))


@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ViTFeaturePyramid:
    """Build the timm ViT of MODEL.VIT with Detectron2's simple feature pyramid and a pooled last level.

    With MODEL.VIT.STRIDE 16 the maps are p2 to p6; with 8 they are p2 to p5.

    Raises:
        FileNotFoundError, ValueError: a key or the checkpoint is wrong.
    """
    node = cfg.MODEL.VIT
    if node.STRIDE not in _SCALES:
        raise ValueError(f"MODEL.VIT.STRIDE must be 8 or 16, not {node.STRIDE}.")
    require_imagenet_rgb(cfg, "build_vit_backbone")
    with seeded(0):
        model = build_timm_vit(node.NAME)
    if node.CHECKPOINT != RANDOM:
        load_strictly(model, load_weights(node.CHECKPOINT, "MODEL.VIT.CHECKPOINT"), node.NAME, node.CHECKPOINT)
    network = ViTBackbone(ViTTokens(model, node.LAYER), stride=node.STRIDE, frozen=node.FROZEN)
    scales = _SCALES[node.STRIDE]
    pool = LastLevelMaxPool()
    pool.in_feature = f"p{len(scales) + 1}"
    return ViTFeaturePyramid(network, "tokens", node.OUT_CHANNELS, scales, top_block=pool)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the hierarchical timm network that MODEL.TIMM names, for any image size.

    Raises:
        FileNotFoundError, ValueError: a key or the checkpoint is wrong.
    """
    import timm

    node = cfg.MODEL.TIMM
    if node.CHECKPOINT:
        require_imagenet_rgb(cfg, "build_timm_backbone")
    if not timm.is_model(node.NAME):
        raise ValueError(f"MODEL.TIMM.NAME: timm has no model '{node.NAME}'.")
    any_size = {"strict_img_size": False} if node.NAME.startswith("swin") else {}
    model = timm.create_model(node.NAME, num_classes=0, **any_size)
    if node.CHECKPOINT:
        state = load_weights(node.CHECKPOINT, "MODEL.TIMM.CHECKPOINT")
        state = require_tensors(state.get("model", state), node.CHECKPOINT)
        classifier = f"{model.pretrained_cfg['classifier']}."
        state = {key: value for key, value in state.items() if not key.startswith(classifier)}
        load_strictly(model, state, node.NAME, node.CHECKPOINT)
    return TimmBackbone(model)
