"""MobileSAM is timm's TinyViT-5M before segment-anything's prompt encoder and mask decoder."""

import re

import timm
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

from s4m.sam.segment_anything import CHECKPOINT_KEY, SamSegmenter, load_sam
from s4m.sam.segmenter import SEGMENTERS

NAME = "mobile_sam"
PUBLISHED_AT = "https://github.com/ChaoningZhang/MobileSAM (weights/mobile_sam.pt)"
IMAGE_SIZE = 1024
STRIDE = 16
DIM = 256

# Names of the checkpoint's image encoder are renamed in this order. The checkpoint has a stage's down-sampling at its
# end, and timm has it at the beginning of the next stage.
_RENAMED = (
    (r"^patch_embed\.seq\.0\.", "trunk.patch_embed.conv1."),
    (r"^patch_embed\.seq\.2\.", "trunk.patch_embed.conv2."),
    (r"^layers\.(\d+)\.downsample\.", lambda match: f"trunk.stages.{int(match[1]) + 1}.downsample."),
    (r"^layers\.", "trunk.stages."),
    (r"\.c\.weight$", ".conv.weight"),
)
# The classifier of the pre-training, and tables that follow from the sizes of the windows.
_UNUSED = re.compile(r"^(norm_head|head)\.|\.(attention_bias_idxs|ab)$")


class TinyViTEncoder(nn.Module):
    """TinyViT-5M with its last stage at stride 16, and a neck: (B, 3, S, S) normalized -> (B, 256, S/16, S/16).

    Windows are 7, 14 and 7 cells wide. The last window is padded, so that S may be any multiple of 16.
    """

    def __init__(self, img_size: int = IMAGE_SIZE):
        super().__init__()
        self.img_size = img_size
        self.trunk = timm.create_model("tiny_vit_5m_224", pretrained=False, num_classes=0, global_pool="")
        self.trunk.head = nn.Identity()
        self.trunk.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(self.trunk.num_features, DIM, 1, bias=False),
            LayerNorm2d(DIM),
            nn.Conv2d(DIM, DIM, 3, padding=1, bias=False),
            LayerNorm2d(DIM),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.neck(self.trunk.forward_features(x))


def build_mobile_sam(side: int = IMAGE_SIZE) -> Sam:
    """Build MobileSAM with random weights.

    Args:
        side: side of the input in pixels, a multiple of 16; the published weights are for 1024.
    """
    grid = side // STRIDE
    return Sam(
        image_encoder=TinyViTEncoder(side),
        prompt_encoder=PromptEncoder(
            embed_dim=DIM, image_embedding_size=(grid, grid), input_image_size=(side, side), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=DIM, transformer=TwoWayTransformer(depth=2, embedding_dim=DIM, num_heads=8, mlp_dim=2048)
        ),
    )


def convert_state_dict(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a checkpoint in MobileSAM's layout to `build_mobile_sam`'s state_dict. Unknown names are kept."""
    prefix = "image_encoder."
    converted = {}
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if name == key:
            converted[key] = value
        elif not _UNUSED.search(name):
            for pattern, replacement in _RENAMED:
                name = re.sub(pattern, replacement, name)
            converted[prefix + name] = value
    return converted


def _build(name: str, checkpoint: str, device: torch.device | str, chunk: int) -> SamSegmenter:
    sam = load_sam(name, build_mobile_sam, checkpoint, CHECKPOINT_KEY, PUBLISHED_AT, convert_state_dict)
    return SamSegmenter(name, sam, device, chunk)


SEGMENTERS[NAME] = _build
