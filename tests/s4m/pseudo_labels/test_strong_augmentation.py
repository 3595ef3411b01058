"""Each photometric step against torchvision or by hand, channel order, seeds and probabilities."""

import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from s4m.pseudo_labels.strong_augmentation import strong_augment

OFF = {"jitter_prob": 0.0, "gray_prob": 0.0, "blur_prob": 0.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, 23, 37), generator=generator(), dtype=torch.uint8)


def test_all_off_is_the_image(image):
    assert torch.equal(strong_augment(image, bgr=True, generator=generator(), **OFF), image)
    still = strong_augment(image, bgr=True, generator=generator(), **{**OFF, "jitter_prob": 1.0}, jitter=(0, 0, 0, 0))
    assert (still.int() - image.int()).abs().max() <= 2  # the hue passes through HSV


def test_grey_is_luminance_of_the_right_channels(image):
    grey = strong_augment(image, bgr=False, generator=generator(), **{**OFF, "gray_prob": 1.0})
    expected = 0.2989 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    assert (grey.float() - expected).abs().max() <= 1
    assert (grey == grey[:1]).all()


@pytest.mark.parametrize("step", ["jitter_prob", "gray_prob", "blur_prob"])
def test_channel_order_changes_only_the_order(image, step):
    on = {**OFF, step: 1.0}
    rgb = strong_augment(image, bgr=False, generator=generator(), **on)
    bgr = strong_augment(image.flip(0), bgr=True, generator=generator(), **on)
    assert torch.equal(bgr.flip(0), rgb)
    assert not torch.equal(rgb, image)


@pytest.mark.parametrize("seed", range(5))
def test_brightness_alone_is_a_factor_in_its_range(image, seed):
    result = strong_augment(
        image, bgr=False, generator=generator(seed), **{**OFF, "jitter_prob": 1.0}, jitter=(0.4, 0.0, 0.0, 0.0)
    )
    middle = (image > 40) & (image < 160)
    factors = result[middle].float() / image[middle].float()
    assert 0.55 < factors.median() < 1.45
    assert (factors - factors.median()).abs().max() < 0.1


def test_order_of_the_adjustments_is_random(image, monkeypatch):
    names, orders = ["brightness", "contrast", "saturation", "hue"], set()
    for name in names:
        monkeypatch.setattr(TF, f"adjust_{name}", lambda image, factor, name=name: seen.append((name, factor)) or image)
    for seed in range(60):
        seen = []
        strong_augment(image, bgr=False, generator=generator(seed), **{**OFF, "jitter_prob": 1.0})
        factors = dict(seen)
        assert sorted(factors) == sorted(names)
        assert all(0.6 <= factors[name] <= 1.4 for name in names[:3])
        assert -0.1 <= factors["hue"] <= 0.1
        orders.add(tuple(name for name, _ in seen))
    assert len(orders) > 15


def test_blur_is_torchvisions(image):
    result = strong_augment(image, bgr=False, generator=generator(), **{**OFF, "blur_prob": 1.0}, blur_sigma=(1.5, 1.5))
    assert torch.equal(result, TF.gaussian_blur(image, [11, 11], [1.5, 1.5]))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (2, 40)])
def test_tiny_images(size):
    image = torch.full((3, *size), 77, dtype=torch.uint8)
    result = strong_augment(image, bgr=True, generator=generator(), jitter_prob=1, gray_prob=1, blur_prob=1)
    assert result.shape == image.shape
    assert result.dtype == torch.uint8


def test_seeded_and_without_side_effects(image):
    before = image.clone()
    runs = [strong_augment(image, bgr=True, generator=generator(seed), jitter_prob=1.0) for seed in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(image, before)


def test_probabilities(image):
    changed = [
        not torch.equal(strong_augment(image, bgr=True, generator=generator(s), **{**OFF, "gray_prob": 0.2}), image)
        for s in range(300)
    ]
    assert 0.12 < sum(changed) / 300 < 0.28
