"""An ISTD network of your own, registered and trained by the command `istd train` with the options of this script.

    python docs/examples/own_network.py --config-file istd/networks/alcnet.yaml --overlay istd/schemes/pal.yaml \
        --overlay quick/overlays/scenes.yaml ISTD.NETWORK.NAME TwoScaleNet ISTD.NETWORK.MOMENTUM -1.0
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.cli import main
from istd.modeling import NETWORK_REGISTRY, Network


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


@NETWORK_REGISTRY.register()
class TwoScaleNet(Network):
    """A network with features at strides 1 and 2, which the deeper ones refine."""

    stage_channels = (16, 32)  # of the features that `stages` returns and SCAM modulates, finest first
    strides = (1, 2)
    multiple = 2  # the sides of an image are padded to multiples of it
    modulation_scale = 0.12

    def __init__(self, *, in_channels: int = 3):
        super().__init__()
        self.fine = _block(in_channels, 16)
        self.coarse = _block(16, 32)
        self.output = nn.Conv2d(48, 1, 1)

    def stages(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> features (B, 16, H, W) and (B, 32, H/2, W/2)."""
        fine = self.fine(x)
        return [fine, self.coarse(F.max_pool2d(fine, 2))]

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        """The features -> a list of logit maps, here the one (B, 1, H, W)."""
        fine, coarse = features
        enlarged = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return [self.output(torch.cat([fine, enlarged], dim=1))]

    def output_layer(self) -> nn.Conv2d:
        """The layer whose first bias ISTD.NETWORK.OUTPUT_BIAS sets."""
        return self.output


if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
