"""Point prompts drawn from soft masks (S4M, PR)."""

import torch

# Logits of saturated masks stay finite, and the background of a large map weighs about one pixel.
_PROBABILITY_FLOOR = 1e-6
# This many map pixels are processed at once: a CPU's cache holds them, which makes it ten times faster.
_CPU_CHUNK = 1 << 20
_GPU_CHUNK = 1 << 26


def sample_points(soft_masks: torch.Tensor, num_points: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw points of each mask without replacement, with probabilities that are the softmax of the mask's logits.

    The weights of that softmax are exp(logit) = p / (1 - p). A point needs two random numbers, however large the map
    is: the first picks the row by the rows' sums, the second picks the column within the row. The weight of a drawn
    pixel becomes zero for the next draw. Example for a map of 2 x 2 pixels with the probabilities

        0.50  0.75        weights  1  3   row sum  4        first number 0.3 * 14 = 4.2: row 1, as 4 < 4.2
        0.50  0.90                 1  9   row sum 10        second number 0.5 * 10 = 5: column 1, as 1 < 5

    Args:
        soft_masks: (N, H, W) probabilities in [0, 1], on any device.
        num_points: P. A map of fewer than P pixels repeats its last point.
        generator: a generator on the CPU; None draws from torch's global one.

    Returns:
        (N, P, 2) float32 x, y, whole pixel indices, on the masks' device.
    """
    count, height, width = soft_masks.shape
    uniform = torch.rand(count, num_points, 2, generator=generator, dtype=torch.float64).to(soft_masks.device)
    chunk = _CPU_CHUNK if soft_masks.device.type == "cpu" else _GPU_CHUNK
    step = max(1, chunk // max(height * width, 1))
    parts = [_draw(soft_masks[i : i + step], uniform[i : i + step]) for i in range(0, count, step)]
    return torch.cat(parts) if parts else torch.zeros(0, num_points, 2, device=soft_masks.device)


def _draw(soft_masks: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the points (N, P, 2) that uniform numbers (N, P, 2) in [0, 1) pick."""
    probability = soft_masks.float().clamp(_PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
    weights = probability / (1 - probability)
    row_sums = weights.sum(dim=2, dtype=torch.float64)
    mask_index = torch.arange(len(weights), device=weights.device)
    points: list[torch.Tensor] = []
    for numbers in uniform.unbind(dim=1):
        if len(points) == weights[0].numel():
            points += [points[-1]] * (uniform.shape[1] - len(points))
            break
        y = _pick(row_sums, numbers[:, 0])
        row = weights[mask_index, y].double()
        x = _pick(row, numbers[:, 1])
        weights[mask_index, y, x] = row[mask_index, x] = 0.0
        row_sums[mask_index, y] = row.sum(dim=1)
        points.append(torch.stack([x, y], dim=1))
    return torch.stack(points, dim=1).float()


def _pick(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return an index for each row of weights (N, K) float64, by its number (N,) in [0, 1); its weight is not zero."""
    cumulative = weights.cumsum(dim=1)
    total = cumulative[:, -1:]
    # The target lies below the total, and the search goes to its right, so it never ends at an entry of weight zero.
    target = torch.minimum(numbers[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]
