"""A segmenter of your own, registered and used by the command `s4m train` with the options of this script.

    python docs/examples/own_segmenter.py --config-file quick/shapes_stage1.yaml S4M.SAM.NAME color

This one answers points with the pixels of a similar color. A useful one wraps a trained promptable network.
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

from s4m.cli import main
from s4m.sam import SEGMENTERS, PromptableSegmenter, Prompts

SIDE = 128  # of the square input, pixels
RADII = (20.0, 40.0, 80.0)  # gray levels within which a color is similar: three masks a prompt


class ColorSegmenter(PromptableSegmenter):
    """Masks of the pixels whose color is near the color under the points."""

    def embed(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Images (3, h, w) -> features (B, 3, SIDE, SIDE): the colors, padded on the right and below."""
        return torch.stack([F.pad(x, (0, SIDE - x.shape[2], 0, SIDE - x.shape[1])) for x in images])

    def answer(self, features: torch.Tensor, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask logits (N, 3, SIDE, SIDE) and quality (N, 3) of N prompts with points."""
        x, y = prompts.points.round().long().clamp(0, SIDE - 1).unbind(dim=2)
        rows = torch.arange(len(features), device=features.device)[:, None]
        wanted = features[rows, :, y, x].mean(dim=1)
        distance = (features - wanted[..., None, None]).norm(dim=1, keepdim=True)
        radii = distance.new_tensor(RADII)
        masks = 1 - distance / radii[:, None, None]
        return masks, masks.new_full(masks.shape[:2], 0.5)

    def image_tokens(self, features: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        """Tokens (N, 3, SIDE, SIDE), which structural distillation compares."""
        return features


def build(name: str, checkpoint: str, device: torch.device | str, chunk: int) -> ColorSegmenter:
    """What S4M.SAM.NAME and S4M.SAM.CHECKPOINT name; this one has no weights."""
    return ColorSegmenter(name, nn.Identity(), SIDE, device, chunk)


SEGMENTERS["color"] = build

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
