"""DNANet: a densely nested U-Net of CBAM residual blocks in its ResNet-18 setting."""

import torch
from torch import Tensor, nn

from istd.modeling.backbones.attention import AttentionResidual, attention_stage
from istd.modeling.backbones.blocks import pooled_stages, resize, same_conv
from istd.modeling.backbones.network import NETWORK_REGISTRY, Network


@NETWORK_REGISTRY.register()
class DNANet(Network):
    """DNANet (two blocks per node, 16 to 256 filters): 4,696,888 parameters with 3 channels, 4,696,568 with 1.

    Node X(i, j) stands at depth i and column j. The first column holds the stage features. The head has other nodes,
    the fusion of the last nodes of all depths, and one classifier each for X(0, 1), X(0, 2), X(0, 3) and the fusion. In
    training the head returns all four maps, the fusion's first, and in eval mode the fusion's map only.
    """

    stage_channels = (16, 32, 64, 128, 256)
    strides = (1, 2, 4, 8, 16)
    multiple = 16
    modulation_scale = 0.05  # not published; best of 0.05, 0.12, 0.3, 0.6 on synthetic validation scenes

    def __init__(self, *, in_channels: int = 3):
        super().__init__()
        widths = self.stage_channels
        self.stage = nn.ModuleList(
            attention_stage(before, width, 1 if depth == 0 else 2)
            for depth, (before, width) in enumerate(zip((in_channels, *widths), widths, strict=False))
        )
        self.nodes = nn.ModuleDict({f"{depth}_{column}": self._node(depth, column) for depth, column in self._nest()})
        self.laterals = nn.ModuleList(same_conv(width, widths[0], 1) for width in widths[:0:-1])
        self.fusion = AttentionResidual(len(widths) * widths[0], widths[0])
        self.outputs = nn.ModuleList(same_conv(widths[0], 1, 1) for _ in widths[1:])

    def _nest(self) -> list[tuple[int, int]]:
        """List (depth, column) of the nodes beyond the first column, each node after those that it reads."""
        depths = len(self.stage_channels)
        return [(total - column, column) for total in range(1, depths) for column in range(1, total + 1)]

    def _node(self, depth: int, column: int) -> nn.Sequential:
        widths = self.stage_channels
        inputs = column * widths[depth] + widths[depth + 1] + (widths[depth - 1] if depth else 0)
        return attention_stage(inputs, widths[depth], 2 if depth else 1)

    def stages(self, x: Tensor) -> list[Tensor]:
        return pooled_stages(self.stage, x)

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        rows = [[feature] for feature in features]
        for depth, column in self._nest():
            inputs = [*rows[depth], resize(2)(rows[depth + 1][column - 1])]
            if depth:
                inputs.append(resize(0.5)(rows[depth - 1][column]))
            rows[depth].append(self.nodes[f"{depth}_{column}"](torch.cat(inputs, dim=1)))
        last = [row[-1] for row in rows]
        enlarged = [
            resize(2**depth)(lateral(x))
            for lateral, x, depth in zip(self.laterals, last[:0:-1], range(len(rows) - 1, 0, -1), strict=True)
        ]
        fused = self.outputs[-1](self.fusion(torch.cat([*enlarged, last[0]], dim=1)))
        if not self.training:
            return [fused]
        return [fused, *(output(x) for output, x in zip(self.outputs[:-1], rows[0][1:-1], strict=True))]

    def output_layer(self) -> nn.Conv2d:
        return self.outputs[-1]

    def side_layers(self) -> list[nn.Conv2d]:
        return list(self.outputs[:-1])
