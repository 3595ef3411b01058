import shutil

import cv2
import numpy as np
import pytest
import tifffile
from detectron2.data.detection_utils import _apply_exif_orientation
from PIL import Image, ImageFile

from s4m.data.images import first_missing, read_header, read_image, turn


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
    with pytest.raises(ValueError, match=r"large\.png' is too large: .* 598 pixels.*INPUT\.MAX_PIXELS"):
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


def ramp():
    """Values 200 to 2000 of a square on a dark ground, (40, 50) float64."""
    values = np.full((40, 50), 200.0)
    values[10:30, 10:30] = 2000
    return values


def rgb():
    return np.dstack([ramp(), ramp() / 2, ramp() / 5])


DEEP = {
    "gray16.png": lambda path: cv2.imwrite(path, ramp().astype(np.uint16)),
    "color16.png": lambda path: cv2.imwrite(path, rgb()[..., ::-1].astype(np.uint16)),
    "alpha16.png": lambda path: cv2.imwrite(
        path, np.dstack([rgb()[..., ::-1], np.full((40, 50), 4095)]).astype(np.uint16)
    ),
    "gray16.pgm": lambda path: cv2.imwrite(path, ramp().astype(np.uint16)),
    "color16.ppm": lambda path: cv2.imwrite(path, rgb()[..., ::-1].astype(np.uint16)),
    "color16.tif": lambda path: tifffile.imwrite(path, rgb().astype(np.uint16), photometric="rgb"),
    "planes16.tif": lambda path: tifffile.imwrite(path, np.moveaxis(rgb(), 2, 0).astype(np.uint16), photometric="rgb"),
    "signed16.tif": lambda path: tifffile.imwrite(path, ramp().astype(np.int16) - 500),
    "gray32.tiff": lambda path: tifffile.imwrite(path, ramp().astype(np.uint32)),
    "half.tif": lambda path: tifffile.imwrite(path, (ramp() / 4000).astype(np.float16)),
    "float.tif": lambda path: tifffile.imwrite(path, (ramp() / 4000).astype(np.float32)),
    "double.tif": lambda path: tifffile.imwrite(path, ramp()),
    "color_float.tif": lambda path: tifffile.imwrite(path, (rgb() / 4000).astype(np.float32), photometric="rgb"),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_eight_bits_are_stretched_by_the_range_of_the_file(tmp_path, name):
    path = str(tmp_path / name)
    DEEP[name](path)
    header, image = read_header(path), read_image(path, "RGB")
    assert header == ((40, 50), 1, True, "", 1)
    assert image.dtype == np.uint8 and image.shape == (40, 50, 3) and image.max() == 255
    # Red is the brightest channel and blue the darkest, whose 40 is the least value of the file.
    colors = (image[20, 20].tolist(), image[0, 0].tolist())
    assert colors == (([255, 125, 47], [21, 8, 0]) if rgb_in(name) else ([255] * 3, [0] * 3))


def rgb_in(name):
    return any(word in name for word in ("color", "alpha", "planes"))


def test_values_that_are_not_finite_do_not_stretch(tmp_path):
    values = ramp()
    values[0, :3] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "holes.tif", values)
    image = read_image(str(tmp_path / "holes.tif"), "RGB")
    assert image[20, 20].tolist() == [255] * 3 and image[0, :4].max() == 0


def test_depth_by_type(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), ramp().astype(np.uint16))
    tifffile.imwrite(tmp_path / "a.tif", np.clip(ramp() / 2000, 0, 1).astype(np.float32))
    assert read_image(str(tmp_path / "a.png"), "RGB", "type")[20, 20, 0] == round(2000 / 257)
    assert read_image(str(tmp_path / "a.tif"), "RGB", "type")[0, 0, 0] == round(0.1 * 255)
    with pytest.raises(ValueError, match="INPUT.RANGE must be extremes or type, not 'bits'"):
        read_image(str(tmp_path / "a.png"), "RGB", "bits")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_headers_and_pixels_agree_on_the_orientation(tmp_path, color, orientation, suffix):
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / f"turned.{suffix}", color, exif=exif)
    upright = turn(color, orientation)
    header = read_header(path)
    assert header == (upright.shape[:2], orientation, False, "", 1)
    image = read_image(path, "RGB")
    assert image.shape == upright.shape
    if suffix in ("png", "tif"):
        assert np.array_equal(image, upright)
    if suffix == "png":
        assert np.array_equal(upright, np.asarray(_apply_exif_orientation(Image.open(path))))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp", "ppm"])
def test_headers_tell_torn_files_and_pass_over_what_follows_the_end(tmp_path, color, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(color).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0\0more")
    assert not read_header(path).problem
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert f"a.{suffix}' is" in read_header(path).problem
    path.write_bytes(b"")
    assert read_header(path).problem.endswith("is an empty file")
