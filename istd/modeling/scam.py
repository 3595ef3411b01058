"""Semantic-conditioned affine modulation: a frozen foundation model's tokens scale and shift a network's features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALLEST_SCALE = 1e-6  # at or below it SCAM is off and the foundation model need not run


class SCAM(nn.Module):
    """SCAM of "Learning with Semantic Priors" (arXiv 2605.14346).

    1. F = sum_k softmax(a)_k F_k over the K hidden states, a learned, initially 0: their mean.
    2. Token attention pooling: g = sum_i softmax(score(F))_i F_i, one linear score a token, temperature 1.
    3. An MLP (feature_dim -> hidden_dim -> ReLU -> 2 * sum of stage channels) gives raw gamma and beta of each channel.
    4. gamma = 1 + tanh(raw gamma * gate), gate learned by channel, initially 1.
    5. f <- (1 + s (gamma - 1)) * f + s * beta.

    The MLP's last layer starts at zero, so gamma = 1 and beta = 0 at first: a new teacher equals its student exactly,
    whatever the tokens. Its gradient is not zero there, the gate's and the pooling's are from the second step on.

    Args:
        feature_dim: channels of the token maps.
        stage_channels: channels of each stage feature of the network, finest first.
        num_layers: K, token maps that are mixed.
        hidden_dim: width of the MLP.
        scale: s; at or below 1e-6 features pass untouched and no tokens are needed.
        stages: indices of the stages that are modulated, 0 the finest; the others pass untouched. None: all.

    Raises:
        ValueError: the network has no such stage, or one is named twice.
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
        """Whether tokens change anything; where not, the foundation model can be left out."""
        return self.scale > SMALLEST_SCALE

    def pool(self, tokens: Tensor | Sequence[Tensor]) -> Tensor:
        """K token maps (B, C, h, w) -> (B, C): layers mixed by softmax, cells pooled by attention."""
        weights = self.layer_logits.softmax(0)
        maps = tokens if isinstance(tokens, Tensor) else torch.stack(list(tokens))
        if len(maps) != len(weights):
            raise ValueError(f"SCAM mixes {len(weights)} token maps, but {len(maps)} were given.")
        fused = torch.einsum("k,kbchw->bhwc", weights, maps.to(weights.dtype)).flatten(1, 2)
        attention = self.score(fused).softmax(dim=1)
        return (attention * fused).sum(dim=1)

    def affine(self, tokens: Tensor | Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Gamma and beta of each modulated stage, (B, its channels, 1, 1) each."""
        raw_gamma, beta = self.mlp(self.pool(tokens))[..., None, None].chunk(2, dim=1)
        gamma = 1 + torch.tanh(raw_gamma * self.gate[:, None, None])
        return list(gamma.split(self.stage_channels, dim=1)), list(beta.split(self.stage_channels, dim=1))

    def forward(self, tokens: Tensor | Sequence[Tensor] | None, features: Sequence[Tensor]) -> list[Tensor]:
        """Modulate the stage features.

        Args:
            tokens: K token maps (B, feature_dim, h, w), a list or one (K, B, feature_dim, h, w) tensor, of any float
                type; not read (None will do) where SCAM is not active.
            features: one (B, stage_channels[l], H_l, W_l) a stage.

        Returns:
            features of the same shapes; the very same tensors where SCAM is not active.

        Raises:
            ValueError: the number of token maps is not num_layers.
        """
        if not self.active:
            return list(features)
        gammas, betas = self.affine(tokens)
        s, results = self.scale, list(features)
        for stage, gamma, beta in zip(self.stages, gammas, betas, strict=True):
            results[stage] = (1 + s * (gamma - 1)) * features[stage] + s * beta
        return results

    def gate_penalty(self) -> Tensor:
        """mean |gate|, a scalar; the inner loss adds it with weight 0.005."""
        return self.gate.abs().mean()
