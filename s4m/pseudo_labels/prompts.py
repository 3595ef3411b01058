"""Point prompts drawn from soft masks (S4M, PR)."""

import torch

_PROBABILITY_FLOOR = 1e-6  # logits of saturated masks stay finite: the background of a large map weighs about one pixel
_CHUNK = 1 << 24  # map pixels whose float64 weights are held at once


def sample_points(soft_masks: torch.Tensor, num_points: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Points of each mask, without replacement, with probability proportional to the softmax of the mask's logits.

    exp(logit) = p / (1 - p) are the weights of that softmax, so each point is one draw from their cumulative sum, and a
    drawn pixel's weight becomes zero for the next. That is exact, and costs `num_points` random numbers a mask however
    large the map is.

    Args:
        soft_masks: (N, H, W) probabilities in [0, 1], on any device.
        num_points: P. A map of fewer than P pixels repeats its last point.
        generator: of the CPU; None: torch's own.

    Returns:
        (N, P, 2) float32 x, y, whole pixel indices, on the masks' device.
    """
    count, height, width = soft_masks.shape
    uniform = torch.rand(count, num_points, generator=generator, dtype=torch.float64).to(soft_masks.device)
    step = max(1, _CHUNK // max(height * width, 1))
    parts = [_draw(soft_masks[start : start + step], uniform[start : start + step]) for start in range(0, count, step)]
    index = torch.cat(parts) if parts else torch.zeros(0, num_points, dtype=torch.int64, device=soft_masks.device)
    return torch.stack([index % width, index // width], dim=-1).float()


def _draw(soft_masks: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Flat pixel indices (N, P) int64 of the draws that the uniform numbers (N, P) in [0, 1) name."""
    probability = soft_masks.flatten(1).double().clamp(_PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
    weights = probability / (1 - probability)
    picks: list[torch.Tensor] = []
    for number in uniform.t():
        if len(picks) == weights.shape[1]:
            picks += [picks[-1]] * (len(uniform[0]) - len(picks))
            break
        cumulative = weights.cumsum(dim=1)
        total = cumulative[:, -1:]
        # below the total, and right of it in the search, so that a pixel of no weight left is never found
        target = torch.minimum(number[:, None] * total, total.nextafter(torch.zeros_like(total)))
        pick = torch.searchsorted(cumulative, target, right=True)
        weights.scatter_(1, pick, 0.0)
        picks.append(pick)
    return torch.cat(picks, dim=1)
