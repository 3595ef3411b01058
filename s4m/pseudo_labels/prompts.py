"""Point prompts drawn from soft masks (S4M, PR)."""

import torch

_PROBABILITY_FLOOR = 1e-6  # logits of saturated masks stay finite: the background of a large map weighs about one pixel
# Map pixels worked on at once: what a CPU's cache holds (ten times faster than all of them), more on a GPU.
_CPU_CHUNK = 1 << 20
_GPU_CHUNK = 1 << 26


def sample_points(soft_masks: torch.Tensor, num_points: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Points of each mask, without replacement, with probability proportional to the softmax of the mask's logits.

    exp(logit) = p / (1 - p) are the weights of that softmax, so each point is a draw of its row by the rows' sums, then
    of its column within the row, and a drawn pixel's weight becomes zero for the next. That is exact, and costs two
    random numbers a point however large the map is.

    Args:
        soft_masks: (N, H, W) probabilities in [0, 1], on any device.
        num_points: P. A map of fewer than P pixels repeats its last point.
        generator: of the CPU; None: torch's own.

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
    """The points (N, P, 2) that uniform numbers (N, P, 2) in [0, 1) name."""
    probability = soft_masks.float().clamp(_PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
    weights = probability / (1 - probability)
    row_sums = weights.sum(dim=2, dtype=torch.float64)
    every = torch.arange(len(weights), device=weights.device)
    points: list[torch.Tensor] = []
    for numbers in uniform.unbind(dim=1):
        if len(points) == weights[0].numel():
            points += [points[-1]] * (uniform.shape[1] - len(points))
            break
        y = _pick(row_sums, numbers[:, 0])
        row = weights[every, y].double()
        x = _pick(row, numbers[:, 1])
        weights[every, y, x] = row[every, x] = 0.0
        row_sums[every, y] = row.sum(dim=1)
        points.append(torch.stack([x, y], dim=1))
    return torch.stack(points, dim=1).float()


def _pick(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """For each row of weights (N, K) float64 an index, by the number (N,) in [0, 1); never one of weight zero."""
    cumulative = weights.cumsum(dim=1)
    total = cumulative[:, -1:]
    # below the total, and right of it in the search: an entry that adds nothing is never found
    target = torch.minimum(numbers[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]
