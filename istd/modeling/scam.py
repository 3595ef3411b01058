"""Semantic-conditioned affine modulation: a frozen foundation model's tokens scale and shift a network's features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALLEST_SCALE = 1e-6  # SCAM is off at or below this scale, and the foundation model need not run


class SCAM(nn.Module):
    """SCAM of "Learning with Semantic Priors" (arXiv 2605.14346).

    1. F = sum_k softmax(a)_k F_k mixes the K hidden states; the learned logits a start at 0, which gives the mean.
    2. g = sum_i softmax(score(F))_i F_i pools the tokens by attention with one linear score for each token.
    3. An MLP (feature_dim -> hidden_dim -> ReLU -> 2 * sum of stage channels) gives raw gamma and beta of each channel.
    4. gamma = 1 + tanh(raw gamma * gate), where each channel has a learned gate that starts at 1.
    5. f <- (1 + s (gamma - 1)) * f + s * beta modulates the features.

    The MLP's last layer starts at zero, so at first gamma = 1 and beta = 0, and the teacher equals its student exactly.
    That layer has a gradient in the first step; the gates and the pooling have one from the second step on.

    Example with scale s = 0.5 and one feature f = 4:
        raw gamma = 0 and beta = 0, as at the start    -> gamma = 1,       f stays (1 + 0.5 * 0) * 4 + 0 = 4
        raw gamma = 2, gate = 1 and beta = 0.1         -> gamma = 1.96,    f becomes (1 + 0.5 * 0.96) * 4 + 0.05 = 5.98
        the same with a closed gate, gate = 0          -> gamma = 1,       f becomes 4.05, because beta has no gate

    Args:
        feature_dim: channels of the token maps.
        stage_channels: channels of each stage feature of the network, finest first.
        num_layers: number K of mixed token maps.
        hidden_dim: width of the MLP.
        scale: strength s; at or below 1e-6 features pass unchanged and no tokens are needed.
        stages: indices of the modulated stages, where 0 is the finest; None means all. Other stages pass unchanged.

    Raises:
        ValueError: the network has no such stage, or a stage is named twice.
    """

    def __init__(
        self,
        feature_dim: int,
        stage_channels: Sequence[int],
        num_layers: int = 13,
        hidden_dim: int = 128,
        scale: float = 0.12,
        stages: Sequence[int] | None = None,
    ):
        super().__init__()
        self.stages = tuple(range(len(stage_channels))) if stages is None else tuple(sorted(stages))
        if len({*self.stages}) < len(self.stages) or not {*self.stages} <= {*range(len(stage_channels))}:
            raise ValueError(
                f"ISTD.SCAM.STAGES is {list(stages)}: give stages from 0 to {len(stage_channels) - 1}, each once."
            )
        self.stage_channels = tuple(stage_channels[stage] for stage in self.stages)
        self.scale = float(scale)
        channels = sum(self.stage_channels)
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))
        self.score = nn.Linear(feature_dim, 1)
        self.mlp = nn.Sequential(
            nn.Linear(feature_dim, hidden_dim), nn.ReLU(inplace=True), nn.Linear(hidden_dim, 2 * channels)
        )
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)
        self.gate = nn.Parameter(torch.ones(channels))

    @property
    def active(self) -> bool:
        """Whether tokens change the features; if not, the foundation model can be left out."""
        return self.scale > SMALLEST_SCALE

    def pool(self, tokens: Tensor | Sequence[Tensor]) -> Tensor:
        """Mix K token maps (B, C, h, w) by softmax and pool their cells by attention to (B, C)."""
        weights = self.layer_logits.softmax(0)
        maps = tokens if isinstance(tokens, Tensor) else torch.stack(list(tokens))
        if len(maps) != len(weights):
            raise ValueError(f"SCAM mixes {len(weights)} token maps, but {len(maps)} were given.")
        fused = torch.einsum("k,kbchw->bhwc", weights, maps.to(weights.dtype)).flatten(1, 2)
        attention = self.score(fused).softmax(dim=1)
        return (attention * fused).sum(dim=1)

    def affine(self, tokens: Tensor | Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return gamma and beta of each modulated stage, (B, channels of the stage, 1, 1) each."""
        raw_gamma, beta = self.mlp(self.pool(tokens))[..., None, None].chunk(2, dim=1)
        gamma = 1 + torch.tanh(raw_gamma * self.gate[:, None, None])
        return list(gamma.split(self.stage_channels, dim=1)), list(beta.split(self.stage_channels, dim=1))

    def forward(self, tokens: Tensor | Sequence[Tensor] | None, features: Sequence[Tensor]) -> list[Tensor]:
        """Modulate the stage features.

        Args:
            tokens: K token maps (B, feature_dim, h, w) as a list, or as one (K, B, feature_dim, h, w) tensor, in any
                float type; they are not read and may be None if SCAM is not active.
            features: (B, stage_channels[l], H_l, W_l) of each stage.

        Returns:
            features of the same shapes; the identical tensors if SCAM is not active.

        Raises:
            ValueError: the number of token maps is not num_layers.
        """
        if not self.active:
            return list(features)
        gammas, betas = self.affine(tokens)
        s = self.scale
        results = list(features)
        for stage, gamma, beta in zip(self.stages, gammas, betas, strict=True):
            results[stage] = (1 + s * (gamma - 1)) * features[stage] + s * beta
        return results

    def gate_penalty(self) -> Tensor:
        """Return mean |gate|, a scalar that the inner loss adds with weight 0.005."""
        return self.gate.abs().mean()
