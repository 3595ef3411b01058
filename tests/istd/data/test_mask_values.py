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


@pytest.mark.parametrize("numbers", [(60, 60, 120, 120), (85, 170, 255, 255)])
def test_instance_numbers_in_a_jpeg_are_refused(tmp_path, numbers):
    mask = np.kron(spots(numbers), np.ones((4, 4), np.uint8))
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=98)
    with pytest.raises(BadImageError, match=r"m\.jpg .*ambiguous: regions of at most .* save it as PNG"):
        read_mask(tmp_path / "m.jpg")


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_neither_ringing_nor_a_stray_value_makes_a_jpeg_ambiguous(tmp_path, quality):
    mask = np.kron(TARGETS, np.full((4, 4), 255, np.uint8))
    mask[0:2, 0:2] = 120
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=quality)
    assert np.mean(read_mask(tmp_path / "m.jpg") != (mask > 127)) < 0.01


def test_a_weak_target_beside_soft_ones_is_named(tmp_path):
    mask = SOFT.copy()
    mask[9:11, 9] = 100
    Image.fromarray(mask).save(tmp_path / "m.png")
    with pytest.raises(BadImageError, match=r"m\.png .*ambiguous: .* beside one of at most 100"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("stray", [1, 64, 114, 127, (114, 115, 127, 114)])
@pytest.mark.parametrize("white", [255, 65535])
@pytest.mark.parametrize("count", [1, 4])
def test_stray_values_beside_white_are_no_targets(tmp_path, stray, white, count):
    mask = np.zeros((20, 20), np.uint8 if white == 255 else np.uint16)
    for y, x in PLACES[:count]:
        mask[y : y + 3, x : x + 5] = white
    expected = (mask > 0).astype(np.uint8)
    place = np.s_[0:2, 0:2] if isinstance(stray, tuple) else np.s_[0, 0]
    mask[place] = np.reshape(stray, (2, 2)) if isinstance(stray, tuple) else stray
    Image.fromarray(mask).save(tmp_path / "m.png")
    said = []
    assert np.array_equal(read_mask(tmp_path / "m.png", lambda *args: said.append(args)), expected)
    pixels = 4 if isinstance(stray, tuple) else 1
    assert len(said) == 1 and said[0][:2] == ("repaired", "stray values in a mask")
    assert f"m.png: {pixels} pixels beside white" in said[0][2]


def test_many_stray_pixels_are_no_targets_beside_larger_ones():
    mask = np.zeros((20, 20), np.uint8)
    mask[4:7, 4:7] = 255
    mask[::4, 12::4] = 64  # ten pixels, each less than a quarter of the nine of the target
    assert foreground(mask)[1] == 10 and np.array_equal(foreground(mask)[0], mask == 255)


def test_the_noise_of_a_jpeg_saved_again_is_no_target():
    mask = TARGETS * np.uint8(255)
    mask[0, ::2], mask[19, ::3] = 1, 2
    assert np.array_equal(foreground(mask)[0], TARGETS)


def test_a_large_weak_region_beside_white_is_an_instance_or_unclear():
    mask = spots([255, 255, 0, 0])
    mask[12:16, 10:15] = 100
    assert np.array_equal(foreground(mask)[0], mask > 0) and foreground(mask)[1] == 0
    mask[13, 12] = 110
    with pytest.raises(ValueError, match="ambiguous: .* up to 255 beside one of at most 110"):
        foreground(mask)


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (20, 90, 200)])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "16-bit"])
def test_a_mask_in_the_alpha_channel(tmp_path, color, kind):
    path = tmp_path / "m.png"
    alpha = TARGETS * np.uint8(255)
    array = np.dstack([np.full((20, 20, 3), color, np.uint8), alpha])
    if kind == "16-bit":
        cv2.imwrite(str(path), array.astype(np.uint16) * 257)
    else:
        Image.fromarray(array).convert(kind).save(path)
    assert np.array_equal(read_mask(path), TARGETS)


def test_transparent_pixels_are_background_and_opaque_alpha_says_nothing(tmp_path):
    path = tmp_path / "m.png"
    colors = np.dstack([spots([200, 200, 255, 255])] * 3 + [TARGETS * np.uint8(255)])
    colors[0:3, 0:3, :3] = 255
    Image.fromarray(colors).save(path)
    assert np.array_equal(read_mask(path), TARGETS)
    colors[0:3, 0:3, :3], colors[..., 3] = 0, 0
    Image.fromarray(colors).save(path)
    assert np.array_equal(read_mask(path), TARGETS)


@pytest.mark.parametrize("extension", ["png", "jpg", "tif"])
def test_an_inverted_mask_is_refused_by_name(tmp_path, extension):
    Image.fromarray((1 - TARGETS) * np.uint8(255)).save(tmp_path / f"m.{extension}")
    with pytest.raises(BadImageError, match=rf"m\.{extension} is no clear mask: 94 % of it is target.* inverted"):
        read_mask(tmp_path / f"m.{extension}")


@pytest.mark.parametrize("value", [1, 2, 20])
def test_a_jpeg_of_small_numbers_is_refused_by_name(tmp_path, value):
    Image.fromarray(TARGETS * np.uint8(value)).save(tmp_path / "m.jpg", quality=100)
    with pytest.raises(BadImageError, match=r"m\.jpg is no clear mask: its largest value is .*; save it as PNG"):
        read_mask(tmp_path / "m.jpg")


def test_every_numbered_point_is_read(tmp_path):
    points = np.zeros((20, 20), np.uint8)
    for number, (y, x) in enumerate(PLACES, 1):
        points[y, x] = number
    Image.fromarray(points).save(tmp_path / "a.png")
    assert PointSource(tmp_path)("a", 20, 20) == [[x, y] for y, x in PLACES]


def test_every_real_mask_stays(shared):
    for path in sorted((shared / "data" / "sirst" / "masks").iterdir())[::5]:
        assert np.array_equal(read_mask(path), np.asarray(Image.open(path)) > 127)
