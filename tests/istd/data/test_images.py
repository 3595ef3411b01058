import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from istd.data.images import BadImageError, find_image, image_name, image_size, read_infrared, read_mask


@pytest.fixture
def deep():
    return np.random.default_rng(0).integers(1000, 50000, (20, 30)).astype(np.uint16)


@pytest.fixture
def byte():
    return np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)


@pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
def test_8_bit_files_keep_their_values(tmp_path, byte, extension):
    path = tmp_path / f"a.{extension}"
    Image.fromarray(byte).save(path)
    image = read_infrared(path)
    assert image.dtype == np.float32 and np.array_equal(image, byte)
    assert image_size(path) == (20, 30)


def test_color_becomes_luma_and_not_a_channel(tmp_path, byte):
    color = np.stack([byte, byte // 2, 255 - byte], axis=-1)
    luma = color @ np.array([0.299, 0.587, 0.114])
    Image.fromarray(color).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([color, byte])).save(tmp_path / "b.png")
    for name in "ab":
        assert np.abs(read_infrared(tmp_path / f"{name}.png") - luma).max() <= 0.51


def test_a_palette_is_looked_up(tmp_path, byte):
    image = Image.fromarray(byte % 4, mode="P")
    image.putpalette([10, 10, 10, 200, 200, 200, 30, 60, 90, 0, 0, 0])
    image.save(tmp_path / "a.png")
    expected = np.array([10, 200, 0.299 * 30 + 0.587 * 60 + 0.114 * 90, 0])[byte % 4]
    assert np.abs(read_infrared(tmp_path / "a.png") - expected).max() <= 0.51


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_by_type_by_percentiles_and_by_a_fixed_range(tmp_path, deep, extension):
    path = tmp_path / f"a.{extension}"
    Image.fromarray(deep).save(path)
    np.testing.assert_allclose(read_infrared(path, "type"), deep / 257, rtol=1e-5)
    low, high = np.percentile(deep, (0.1, 99.999))
    np.testing.assert_allclose(read_infrared(path), np.clip((deep - low) / (high - low) * 255, 0, 255), atol=1e-3)
    fixed = np.clip((deep - 2000.0) / 40000 * 255, 0, 255)
    np.testing.assert_allclose(read_infrared(path, "2000..42000"), fixed, atol=1e-3)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_color_is_not_cut_to_8(tmp_path, deep, extension):
    path = tmp_path / f"a.{extension}"
    color = np.stack([deep, deep // 2, deep // 3], axis=-1)
    if extension == "png":
        cv2.imwrite(str(path), color[..., ::-1])
    else:
        tifffile.imwrite(path, color, photometric="rgb")
    luma = color @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read_infrared(path, "type"), luma / 257, atol=0.01)
    assert image_size(path) == (20, 30)


@pytest.mark.parametrize("kind", ["float", "int32", "big-endian", "pages"])
def test_other_tiffs(tmp_path, deep, kind):
    path = tmp_path / "a.tiff"
    arrays = {
        "float": (deep / 65535).astype(np.float32),
        "int32": deep.astype(np.int32),
        "big-endian": deep,
        "pages": np.stack([deep, deep * 0]),
    }
    tifffile.imwrite(path, arrays[kind], byteorder=">" if kind == "big-endian" else "<")
    np.testing.assert_allclose(read_infrared(path, "type"), deep / 257, atol=0.01)


def test_a_constant_16_bit_image_is_zero(tmp_path):
    Image.fromarray(np.full((4, 5), 700, np.uint16)).save(tmp_path / "a.png")
    assert not read_infrared(tmp_path / "a.png").any()


def test_values_that_are_not_finite_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 5), np.nan, np.float32))
    with pytest.raises(BadImageError, match=r"a\.tif .*not finite"):
        read_infrared(tmp_path / "a.tif")


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "bmp", "16.png", "rgb16.png"])
def test_a_truncated_image_is_named(tmp_path, byte, deep, extension):
    path = tmp_path / f"a.{extension}"
    arrays = {"16.png": deep, "rgb16.png": np.stack([deep] * 3, axis=-1)}
    cv2.imwrite(str(path), arrays.get(extension, byte))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(BadImageError, match=f"{path.name} cannot be read as an image"):
        read_infrared(path)


KINDS = ["8.png", "16.png", "color16.png", "8.jpg", "8.bmp", "8.tif", "16.tif", "zlib.tif", "lzw.tif"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_are_one_named_error(tmp_path, byte, deep, kind):
    path = tmp_path / kind
    if kind == "zlib.tif":
        tifffile.imwrite(path, np.stack([deep] * 3, axis=-1), compression="zlib", photometric="rgb")
    elif kind == "lzw.tif":
        Image.fromarray(deep).save(path, compression="tiff_lzw")
    elif kind == "16.tif":
        tifffile.imwrite(path, deep)
    else:
        arrays = {"16.png": deep, "color16.png": np.stack([deep] * 3, axis=-1)}
        cv2.imwrite(str(path), arrays.get(kind, byte))
    content, generator = path.read_bytes(), np.random.default_rng(KINDS.index(kind))
    for turn in range(48):
        damaged = bytearray(content)
        end = len(content) if turn % 2 else min(len(content), 300)  # headers fail in more ways than pixels
        for place in generator.integers(0, end, generator.integers(1, 6)):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged if turn % 5 else damaged[: generator.integers(1, len(damaged))])
        for read in (read_infrared, read_mask, image_size):
            try:
                read(path)
            except BadImageError as error:
                assert kind in str(error)


@pytest.mark.parametrize(
    "error", [zlib.error("x"), struct.error("x"), TypeError("x"), OverflowError("x"), MemoryError()]
)
def test_whatever_a_decoder_raises_is_named(tmp_path, byte, monkeypatch, error):
    def fail(*_):
        raise error

    Image.fromarray(byte).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", fail)
    for read in (read_infrared, read_mask, image_size):
        with pytest.raises(BadImageError, match=r"a\.png cannot be read as an image \((x|MemoryError)\)"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_the_limit_of_pixels_is_ours_and_not_pillow_s(tmp_path, byte, deep, monkeypatch, extension):
    Image.fromarray(byte).save(tmp_path / f"a.{extension}")
    tifffile.imwrite(tmp_path / "b.tif", np.stack([deep] * 3, axis=-1), photometric="rgb")
    names = [f"a.{extension}", "b.tif"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in names:
        assert read_infrared(tmp_path / name).shape == image_size(tmp_path / name) == (20, 30)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr("d2kit.limits._max_pixels", 599)
    for name in names:
        with pytest.raises(BadImageError, match=rf"{name} .*30x20 pixels, which is more than 599"):
            read_infrared(tmp_path / name)


def test_an_image_that_would_fill_the_memory_is_refused_by_its_header(tmp_path):
    Image.new("L", (1, 1)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = (20000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadImageError, match=r"a\.png .*20000x20000 pixels.*INPUT\.MAX_PIXELS"):
        read_infrared(tmp_path / "a.png")


@pytest.mark.parametrize("extension", ["png", "tif", "jpg"])
def test_what_is_no_image_is_named(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    path.write_bytes(b"not an image")
    for read in (read_infrared, read_mask, image_size):
        with pytest.raises(BadImageError, match=f"a.{extension} cannot be read as an image"):
            read(path)


def test_absent_files_and_unknown_ranges(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.png"):
        read_infrared(tmp_path / "none.png")
    with pytest.raises(ValueError, match="range of raw values .* is percentiles or type or 'LOW..HIGH', not '12 bit'"):
        read_infrared(tmp_path / "none.png", "12 bit")


@pytest.mark.parametrize("scale, dtype", [(255, np.uint8), (1, np.uint8), (65535, np.uint16)])
def test_masks_are_0_and_1(tmp_path, scale, dtype):
    mask = (np.arange(12).reshape(3, 4) % 3 == 0).astype(dtype)
    Image.fromarray(mask * dtype(scale)).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask) and read_mask(tmp_path / "m.png").dtype == np.uint8


def test_empty_and_1_bit_masks(tmp_path):
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "zero.png")
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "bit.png")
    assert not read_mask(tmp_path / "zero.png").any()
    assert np.array_equal(read_mask(tmp_path / "bit.png"), np.eye(4))


def test_finding_an_image(tmp_path, byte):
    for name in ("a.png", "a.jpg", "b.TIF", "c_pixels0.png", "d.1.bmp"):
        (tmp_path / name).touch()
    assert find_image(tmp_path, "a") == tmp_path / "a.png"
    assert find_image(tmp_path, "a.jpg") == tmp_path / "a.jpg"
    assert find_image(tmp_path, "a.bmp") == tmp_path / "a.png"
    assert find_image(tmp_path, "b") == tmp_path / "b.TIF"
    assert find_image(tmp_path, "c") == tmp_path / "c_pixels0.png"
    assert find_image(tmp_path, "d.1") == tmp_path / "d.1.bmp"
    assert find_image(tmp_path, "z") is None
    assert [image_name(name) for name in ("x/a.png", "d.1", "e.tiff")] == ["a", "d.1", "e"]


def test_every_real_image_is_its_luma(shared):
    modes = set()
    for path in sorted((shared / "data" / "sirst" / "images").iterdir())[::5]:
        with Image.open(path) as image:
            modes.add(image.mode)
            assert np.array_equal(read_infrared(path), np.asarray(image.convert("RGB").convert("L")))
    assert modes == {"L", "P", "RGB"}
