"""Photometric strong augmentation of the student's view (S4M, ARP): no pixel moves, so labels stay as they are."""

import math
from collections.abc import Sequence

import torch
from torchvision.transforms.v2 import functional as TF


def strong_augment(
    image: torch.Tensor,
    *,
    jitter: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
    jitter_prob: float = 0.8,
    gray_prob: float = 0.2,
    blur_sigma: Sequence[float] = (0.1, 2.0),
    blur_prob: float = 0.5,
    bgr: bool,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Apply color jitter, grayscale and Gaussian blur, each with its probability; return a new (3, H, W) uint8 image.

    The function always draws the same count of random numbers, so a probability changes nothing but its own step.

    Args:
        image: (3, H, W) uint8; it is not changed.
        jitter: greatest change of brightness, contrast, saturation (factors 1 +- value) and hue (turns). The four
            changes come in random order.
        jitter_prob, gray_prob, blur_prob: probability of each step, in [0, 1].
        blur_sigma: least and greatest standard deviation in pixels.
        bgr: whether the channels are blue, green, red; otherwise they are red, green, blue.
        generator: a generator on the CPU; None draws from torch's global one.
    """
    chance = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
    order = torch.randperm(4, generator=generator).tolist()
    result = image.flip(0) if bgr else image
    if chance[0] < jitter_prob:
        result = _jitter_colors(result, jitter, chance[3:7], order)
    if chance[1] < gray_prob:
        result = TF.rgb_to_grayscale(result, num_output_channels=3)
    if chance[2] < blur_prob:
        low, high = blur_sigma
        result = _blur(result, low + (high - low) * chance[7])
    return result.flip(0) if bgr else result


def _jitter_colors(
    image: torch.Tensor, strength: Sequence[float], chance: Sequence[float], order: Sequence[int]
) -> torch.Tensor:
    """Apply the four adjustments in the given order; `chance` in [0, 1) picks each factor from its range."""
    adjustments = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for index in order:
        offset = strength[index] * (2 * chance[index] - 1)
        factor = offset if index == 3 else max(0.0, 1 + offset)
        image = adjustments[index](image, factor)
    return image


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur with a kernel that reaches three standard deviations, or as far as reflection allows in a small image."""
    radius = min(math.ceil(3 * sigma), min(image.shape[1:]) - 1)
    if radius < 1:
        return image
    return TF.gaussian_blur(image, [2 * radius + 1, 2 * radius + 1], [sigma, sigma])
