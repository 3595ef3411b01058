"""What of a mask file is target: instances, palettes, colors, soft borders, and what is unclear."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from istd.data.images import BadImageError, read_mask
from istd.data.mask_values import foreground
from istd.data.points import PointSource

PLACES = [(4, 4), (4, 12), (12, 4), (12, 12)]


def spots(values, dtype=np.uint8) -> np.ndarray:
    image = np.zeros((20, 20), dtype)
    for (y, x), value in zip(PLACES, values, strict=True):
        image[y : y + 2, x : x + 3] = value
    return image


TARGETS = spots([1, 1, 1, 1])
SOFT = cv2.GaussianBlur(TARGETS * np.uint8(255), (3, 3), 0.5)


@pytest.mark.parametrize(
    "values", [(1, 2, 3, 4), (1, 2, 30, 31), (10, 60, 120, 250), (1, 2, 3, 255), (64, 128, 192, 255)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_numbers_of_instances(tmp_path, values, dtype):
    path = tmp_path / ("m.tif" if dtype == np.float32 else "m.png")
    ids = spots(values, dtype)
    tifffile.imwrite(path, ids) if dtype == np.float32 else Image.fromarray(ids).save(path)
    assert np.array_equal(read_mask(path), TARGETS)


def test_instances_that_touch_keep_their_shape():
    ids = np.zeros((8, 8), np.uint8)
    ids[2:5, 1:3], ids[2:5, 3:6] = 1, 2
    assert np.array_equal(foreground(ids)[0], ids > 0)
    many = np.arange(1, 61, dtype=np.uint8).reshape(6, 10)
    assert foreground(np.pad(many, 2))[0].sum() == 60


COLORS = [(128, 0, 0), (0, 0, 255), (64, 0, 128), (0, 20, 0)]


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_a_palette_s_background_is_index_0(tmp_path, extension):
    for background in ((0, 0, 0), (30, 40, 50)):
        image = Image.fromarray(spots([1, 2, 3, 4]), mode="P")
        image.putpalette([*background, *np.ravel(COLORS)])
        image.save(tmp_path / f"m.{extension}")
        assert np.array_equal(read_mask(tmp_path / f"m.{extension}"), TARGETS)


def test_palettes_of_greys_and_unclear_ones(tmp_path):
    path = tmp_path / "m.png"
    image = Image.fromarray(1 - TARGETS, mode="P")
    image.putpalette([255] * 3 + [0] * 3)  # a binary mask whose writer put white first
    image.save(path)
    assert np.array_equal(read_mask(path), TARGETS)
    image.putpalette([200, 0, 0] + [0] * 3)
    image.save(path)
    with pytest.raises(BadImageError, match=r"m\.png .*ambiguous: its palette"):
        read_mask(path)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "16-bit"])
def test_colors_of_instances_count_by_their_largest_channel(tmp_path, kind):
    color = np.array([(0, 0, 0), *COLORS], np.uint8)[spots([1, 2, 3, 4])]
    if kind == "16-bit":
        cv2.imwrite(str(tmp_path / "m.png"), color.astype(np.uint16)[..., ::-1] * 257)
    else:
        Image.fromarray(color).convert(kind).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), TARGETS)


def test_soft_borders_keep_half(tmp_path):
    assert len(np.unique(SOFT)) > 3
    for extension in ("png", "bmp"):
        Image.fromarray(SOFT).save(tmp_path / f"m.{extension}")
        assert np.array_equal(read_mask(tmp_path / f"m.{extension}"), np.greater(SOFT, SOFT.max() / 2))
    assert np.array_equal(foreground(SOFT / np.float32(255))[0], np.greater(SOFT, SOFT.max() / 2))
    ringing = SOFT.copy()
    ringing[9, 9] = 12
    assert np.array_equal(foreground(ringing)[0], np.greater(SOFT, SOFT.max() / 2))


def test_jpeg_has_no_numbers_of_instances(tmp_path):
    path = tmp_path / "m.jpg"
    Image.fromarray(TARGETS * np.uint8(255)).save(path, quality=60)
    assert len(np.unique(np.asarray(Image.open(path)))) > 10
    assert np.array_equal(read_mask(path), TARGETS)


def test_a_weak_target_beside_soft_ones_is_named(tmp_path):
    mask = SOFT.copy()
    mask[9:11, 9] = 100
    Image.fromarray(mask).save(tmp_path / "m.png")
    with pytest.raises(BadImageError, match=r"m\.png .*ambiguous: .* beside one of at most 100"):
        read_mask(tmp_path / "m.png")


def test_every_numbered_point_is_read(tmp_path):
    points = np.zeros((20, 20), np.uint8)
    for number, (y, x) in enumerate(PLACES, 1):
        points[y, x] = number
    Image.fromarray(points).save(tmp_path / "a.png")
    assert PointSource(tmp_path)("a", 20, 20) == [[x, y] for y, x in PLACES]


def test_every_real_mask_stays(shared):
    for path in sorted((shared / "data" / "sirst" / "masks").iterdir())[::5]:
        assert np.array_equal(read_mask(path), np.asarray(Image.open(path)) > 127)
