import shutil

import numpy as np
import pytest
from PIL import Image, ImageFile

from s4m.data.images import first_missing, read_image


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return str(path)


@pytest.fixture
def color():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_color_comes_in_the_asked_order(tmp_path, color):
    path = save(tmp_path / "a.png", color)
    assert np.array_equal(read_image(path, "RGB"), color)
    assert np.array_equal(read_image(path, "BGR"), color[..., ::-1])


def test_grey_palette_and_rgba_become_three_channels(tmp_path, color):
    grey = read_image(save(tmp_path / "grey.png", color[..., 0]), "BGR")
    assert np.array_equal(grey, np.repeat(color[..., :1], 3, axis=2))
    rgba = np.dstack([color, np.full((40, 60), 9, np.uint8)])
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", rgba), "RGB"), color)
    Image.fromarray(color[..., 0]).convert("P").save(tmp_path / "palette.png")
    assert read_image(str(tmp_path / "palette.png"), "BGR").shape == (40, 60, 3)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    image = read_image(save(tmp_path / "deep.png", values), "BGR")
    assert image.dtype == np.uint8
    assert np.abs(image[..., 0].astype(int) - np.round(values / 257)).max() == 0


def test_exif_orientation_is_applied(tmp_path, color):
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / "turned.png", color, exif=exif)
    assert np.array_equal(read_image(path, "RGB"), np.rot90(color, -1))


def test_absent_image_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image '.*none\.png' does not exist"):
        read_image(str(tmp_path / "none.png"), "BGR")


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"{}"])
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"text\.jpg' is not an image") as caught:
        read_image(str(path), "BGR")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tiff"])
@pytest.mark.parametrize("tolerant", [False, True])
def test_truncated_image_raises_and_is_named(tmp_path, color, suffix, tolerant, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(color).save(whole)
    torn = tmp_path / f"torn.{suffix}"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=rf"torn\.{suffix}' is (truncated|not an image)"):
        read_image(str(torn), "BGR")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is tolerant


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_image(str(tmp_path), "BGR")


def test_the_limit_of_pixels_is_pillow_s(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(ValueError, match=r"large\.png' is too large: .* 598 pixels.*PIL\.Image\.MAX_IMAGE_PIXELS"):
        read_image(str(tmp_path / "large.png"), "BGR")


def test_first_missing(tmp_path):
    (tmp_path / "a.png").touch()
    present, absent = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    assert first_missing([]) is None
    assert first_missing([present]) is None
    assert first_missing([present, absent]) == absent
    assert first_missing([str(tmp_path / "no" / "c.png")]).endswith("c.png")


def test_real_grey_jpeg(shared, tmp_path):
    source = shared / "data" / "coco128" / "train2017" / "000000000086.jpg"
    image = read_image(str(source), "BGR")
    assert image.ndim == 3 and np.array_equal(image[..., 0], image[..., 2])
    torn = tmp_path / "torn.jpg"
    shutil.copy(source, torn)
    torn.write_bytes(torn.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="torn.jpg' is truncated"):
        read_image(str(torn), "BGR")
