"""Points and masks between an un-augmented image and its augmented view."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from s4m.pseudo_labels.view_transform import ViewTransform

HEIGHT, WIDTH = 40, 60

CHAINS = {
    "nothing": [T.NoOpTransform()],
    "flip": [T.HFlipTransform(WIDTH)],
    "larger": [T.ResizeTransform(HEIGHT, WIDTH, 80, 120)],
    "smaller": [T.ResizeTransform(HEIGHT, WIDTH, 20, 30)],
    "crop": [T.CropTransform(10, 5, 30, 25)],
    "pad": [T.PadTransform(0, 0, 12, 7)],
    "jitter": [
        T.ResizeTransform(HEIGHT, WIDTH, 60, 90),
        T.CropTransform(20, 8, 64, 48),
        T.PadTransform(0, 0, 16, 16),
        T.HFlipTransform(80),
        T.BlendTransform(src_image=np.zeros(1), src_weight=0.1, dst_weight=0.9),
    ],
    "turned": [T.RotationTransform(HEIGHT, WIDTH, 90, expand=True)],
}


def smooth_source() -> np.ndarray:
    """A float map that is linear in x and y, so that every exact way of reading it agrees."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32) + 0.5
    return x + 100 * y


def view_of(chain: list, source: np.ndarray) -> tuple[T.TransformList, np.ndarray]:
    transforms = T.TransformList(chain)
    view = transforms.apply_segmentation(source) if source.dtype == bool else source
    if source.dtype != bool:
        for transform in chain:
            if not isinstance(transform, T.BlendTransform):
                view = transform.apply_image(view)
    return transforms, view


@pytest.mark.parametrize("name", CHAINS)
def test_points_come_back_to_where_they_came_from(name):
    transforms = T.TransformList(CHAINS[name])
    view = ViewTransform(transforms, (HEIGHT, WIDTH), (200, 200))
    source = torch.tensor([[25.0, 12], [30, 20], [35.5, 18.25]])
    there = transforms.apply_coords(source.numpy() + 0.5) - 0.5
    back = view.points_to_source(torch.from_numpy(there)[None])
    assert back.shape == (1, 3, 2)
    torch.testing.assert_close(back[0], source, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", CHAINS)
def test_masks_reach_the_view_as_detectron2_takes_the_image_there(name):
    transforms, expected = view_of(CHAINS[name], smooth_source())
    view = ViewTransform(transforms, (HEIGHT, WIDTH), expected.shape[:2])
    got = view.masks_to_view(torch.from_numpy(smooth_source())[None])[0].numpy()
    shown = got != -20
    inner = shown.copy()
    inner[:2], inner[-2:], inner[:, :2], inner[:, -2:] = False, False, False, False
    inner &= expected != 0
    assert inner.sum() > 100
    error = np.abs(got - expected)[inner]
    assert np.quantile(error, 0.95) < 1.0 and np.median(error) < 0.2


def test_padding_is_outside_and_points_there_are_clamped():
    transforms = T.TransformList([T.PadTransform(0, 0, 12, 7)])
    view = ViewTransform(transforms, (HEIGHT, WIDTH), (HEIGHT + 7, WIDTH + 12))
    masks = view.masks_to_view(torch.full((2, HEIGHT, WIDTH), 5.0))
    torch.testing.assert_close(masks[:, :HEIGHT, :WIDTH], torch.full((2, HEIGHT, WIDTH), 5.0))
    assert (masks[:, HEIGHT:] < 0).all() and (masks[:, :, WIDTH:] < 0).all()
    flags = view.masks_to_view(torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool))
    assert flags.dtype == torch.bool and flags.sum() == 2 * HEIGHT * WIDTH
    assert view.masks_to_view(torch.zeros(0, HEIGHT, WIDTH)).shape == (0, HEIGHT + 7, WIDTH + 12)
    outside = view.points_to_source(torch.tensor([[[70.0, 44], [-3, 10]]]))
    assert outside.tolist() == [[[WIDTH - 1, HEIGHT - 1], [0, 10]]]
    assert view.points_to_source(torch.zeros(0, 3, 2)).shape == (0, 3, 2)


def test_a_mask_goes_to_the_view_where_its_points_are():
    transforms = T.TransformList(CHAINS["jitter"])
    source = np.zeros((HEIGHT, WIDTH), bool)
    source[14:26, 24:40] = True
    view = ViewTransform(transforms, (HEIGHT, WIDTH), (64, 80))
    mask = view.masks_to_view(torch.from_numpy(source)[None])[0]
    rows, cols = mask.nonzero(as_tuple=True)
    assert len(rows) > 300
    back = view.points_to_source(torch.stack([cols, rows], dim=1)[None])[0].round().long()
    assert torch.from_numpy(source)[back[:, 1], back[:, 0]].float().mean() > 0.95


def test_maps_that_are_not_affine_are_refused():
    class Bend(T.Transform):
        def apply_image(self, image):
            return image

        def apply_coords(self, coords):
            return coords**2 + coords[:, ::-1] * coords

    with pytest.raises(ValueError, match="affine"):
        ViewTransform(T.TransformList([Bend()]), (HEIGHT, WIDTH), (HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="cannot invert"):
        ViewTransform(T.TransformList([T.ResizeTransform(HEIGHT, WIDTH, 0, 30)]), (HEIGHT, WIDTH), (1, 30))
