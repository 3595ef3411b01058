"""The tiny SAM of the package has a convolutional encoder and segment-anything's prompt encoder and mask decoder."""

from pathlib import Path

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn
from torch.nn import functional as F

from s4m.sam.segment_anything import CHECKPOINT_KEY, SamSegmenter, load_sam
from s4m.sam.segmenter import SEGMENTERS

WEIGHTS = Path(__file__).with_name("tiny_sam.pth")
IMAGE_SIZE = 128
STRIDE = 8
DIM = 128


def _conv_norm(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, outputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and a shortcut; (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = _conv_norm(channels, channels)
        self.second = _conv_norm(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class TinyEncoder(nn.Module):
    """Convolutional encoder: (B, 3, S, S) normalized images -> (B, 128, S/8, S/8).

    Stride-16 features give context. Stride-4 features, folded into channels (pixel unshuffle), give the fine edges that
    the mask decoder unfolds again when it upscales by four.
    """

    img_size = IMAGE_SIZE

    def __init__(self):
        super().__init__()
        self.stride2 = nn.Sequential(_conv_norm(3, 24, 2), nn.ReLU(), _conv_norm(24, 32), nn.ReLU())
        self.stride4 = nn.Sequential(_conv_norm(32, 64, 2), nn.ReLU(), ResidualBlock(64))
        self.stride8 = nn.Sequential(_conv_norm(64, 96, 2), nn.ReLU(), ResidualBlock(96))
        self.stride16 = nn.Sequential(_conv_norm(96, 96, 2), nn.ReLU(), ResidualBlock(96), ResidualBlock(96))
        self.detail = nn.Sequential(nn.Conv2d(64, 32, 1), nn.PixelUnshuffle(2))
        self.middle = nn.Conv2d(96, DIM, 1)
        self.context = nn.Conv2d(96, DIM, 1)
        self.merge = nn.Sequential(_conv_norm(2 * DIM, DIM, 1), nn.ReLU(), ResidualBlock(DIM), nn.Conv2d(DIM, DIM, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.stride4(self.stride2(x))
        middle = self.stride8(fine)
        coarse = F.interpolate(self.context(self.stride16(middle)), scale_factor=2, mode="bilinear")
        return self.merge(torch.cat([self.middle(middle) + coarse, self.detail(fine)], dim=1))


def build_tiny_sam() -> Sam:
    """Build the tiny SAM with random weights: a `segment_anything` Sam of 128 pixels, 16 x 16 cells, 128 channels."""
    grid = IMAGE_SIZE // STRIDE
    transformer = TwoWayTransformer(depth=2, embedding_dim=DIM, mlp_dim=2 * DIM, num_heads=4)
    return Sam(
        image_encoder=TinyEncoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=DIM, image_embedding_size=(grid, grid), input_image_size=(IMAGE_SIZE,) * 2, mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(transformer_dim=DIM, transformer=transformer, iou_head_hidden_dim=DIM),
    )


def _build(name: str, checkpoint: str, device: torch.device | str, chunk: int) -> SamSegmenter:
    """Build the tiny SAM with a checkpoint, or with the package's weights, whose training `tiny_sam.json` records."""
    key = CHECKPOINT_KEY if checkpoint else "s4m.sam.tiny"
    published_at = 'no address: the package carries it, and S4M.SAM.CHECKPOINT "" takes it'
    sam = load_sam(name, build_tiny_sam, checkpoint or str(WEIGHTS), key, published_at)
    return SamSegmenter(name, sam, device, chunk)


SEGMENTERS["tiny"] = _build
