"""Arrays of a program and files of arrays as gray values, by their types and values."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from istd.data.arrays import gray_from_array
from istd.data.frames import count_frames, frame_path, read_frame
from istd.data.images import BadImageError, image_size, read_infrared, read_mask
from istd.data.sensor import gray_from_raw


@pytest.fixture
def gray() -> np.ndarray:
    """(40, 56) uint8 with values 40 to about 220."""
    image = np.random.default_rng(0).integers(40, 60, (40, 56)).astype(np.uint8)
    image[10:13, 20:23] = [[120, 160, 120], [160, 220, 160], [120, 160, 120]]
    return image


def nothing(*_):
    """Report nothing."""


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float32, np.float64])
def test_values_of_0_to_255_are_gray_values(gray, dtype):
    result = gray_from_array(gray.astype(dtype))
    assert result.dtype == np.float32 and np.array_equal(result, gray)


SHAPES = {
    "1hw": lambda gray: gray[None],
    "hw1": lambda gray: gray[..., None],
    "bgr": lambda gray: np.dstack([gray] * 3),
    "bgra": lambda gray: np.dstack([gray] * 3 + [255 - gray]),
    "strided": lambda gray: np.dstack([gray] * 4)[:, :, 1],
    "list": lambda gray: gray.tolist(),
}


@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES.keys())
def test_shapes(gray, change):
    assert np.abs(gray_from_array(change(gray)) - gray).max() < 1e-3


@pytest.mark.parametrize("shape", [(40,), (2, 40, 56), (40, 56, 2), (1, 1, 40, 56), (0, 5), (3, 40, 56), ()])
def test_other_shapes_are_named(shape):
    with pytest.raises(ValueError, match=rf"the image has the shape \({str(shape)[1:-1]}\).*is expected"):
        gray_from_array(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("array", [np.zeros((4, 4), complex), np.array([["a"]]), np.array([[None]])])
def test_other_types_are_named(array):
    with pytest.raises(ValueError, match="has values of type .*: integers or floats are expected"):
        gray_from_array(array)


def test_floats_tell_their_scale(gray):
    said = []
    shares = gray_from_array((gray / 255).astype(np.float32), report=lambda *args: said.append(args[2]))
    assert np.abs(shares - gray).max() < 1e-3 and "0.15" in said[0] and "shares of 255" in said[0]
    expected = gray_from_raw(gray.astype(np.float32), report=nothing)
    for raw in (280 + gray / 10, gray * 30.0 + 7000, gray / 65535 + 0.1, gray - 300.0, 210 + gray / 8, 10 + gray / 8):
        assert np.abs(gray_from_array(raw, report=lambda *args: said.append(args[2])) - expected).max() < 0.6
    assert any("raw values 284" in sentence and "float" in sentence for sentence in said)
    assert np.array_equal(gray_from_array(gray * 0.5, report=nothing), (gray * 0.5).astype(np.float32))
    assert not gray_from_array(np.zeros((8, 8))).any()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64])
def test_counts_are_read_as_those_of_a_file(gray, dtype, tmp_path):
    counts = 7000 + 4 * gray.astype(dtype)
    Image.fromarray(counts.astype(np.uint16)).save(tmp_path / "a.png")
    for value_range in ("percentiles", "type", "7000..8020"):
        assert np.array_equal(gray_from_array(counts, value_range), read_infrared(tmp_path / "a.png", value_range))
    assert np.abs(gray_from_array(counts, "7000..8020") - gray).max() < 1e-3
    assert np.array_equal(gray_from_array(gray, "7000..8020"), gray)


def test_a_fixed_range_holds_for_temperatures_of_any_size(gray):
    celsius = gray / 10 - 4
    assert np.abs(gray_from_array(celsius, "-4..21.5", report=nothing) - gray).max() < 1e-3


def test_bool_and_values_that_are_not_finite(gray):
    assert np.array_equal(gray_from_array(gray > 150), (gray > 150) * 255)
    values = gray / 255
    values[3, 3] = np.nan
    assert abs(gray_from_array(values, report=nothing)[3, 3] - 50) < 12
    with pytest.raises(ValueError, match="are not finite"):
        gray_from_array(np.full((8, 8), np.nan))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_npy_and_raw_files(gray, dtype, tmp_path):
    values = gray.astype(dtype) * (1 if dtype == np.uint8 else 30)
    np.save(tmp_path / "a.npy", values)
    name = "b_56x40_float32.raw" if dtype == np.float32 else "b_56x40.raw"
    values.tofile(tmp_path / name)
    for path in (tmp_path / "a.npy", tmp_path / name):
        assert image_size(path) == (40, 56) and count_frames(path) == 1
        expected = gray if dtype == np.uint8 else gray_from_raw(values, report=nothing)
        assert np.array_equal(read_infrared(path), expected)
    np.save(tmp_path / "m.npy", (gray > 150).astype(dtype))
    assert np.array_equal(read_mask(tmp_path / "m.npy"), gray > 150)


def test_arrays_that_are_no_images(gray, tmp_path):
    gray.tofile(tmp_path / "a.raw")
    gray.tofile(tmp_path / "b_57x40.raw")
    (tmp_path / "c.npy").write_bytes(b"no array")
    np.save(tmp_path / "d.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.save(tmp_path / "e.npy", np.zeros(5))
    reasons = {
        "a.raw": "width and height are unknown: name it as in frame_640x512.raw",
        "b_57x40.raw": "it has 2240 bytes, which is no number of images of 57x40",
        "c.npy": "",
        "d.npy": "",
        "e.npy": "",
    }
    for name, reason in reasons.items():
        for read in (read_infrared, read_mask, image_size):
            with pytest.raises(BadImageError, match=rf"{name} .*{reason}"):
                read(tmp_path / name)


def check_size(height, width):
    assert (height, width) == (40, 56)


def test_files_of_several_images(gray, tmp_path):
    stack = np.stack([gray.astype(int) + 7000 + 100 * number for number in range(3)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True)
    with tifffile.TiffWriter(tmp_path / "thumbnail.tif") as file:
        for page in (*stack, stack[0, ::4, ::4]):
            file.write(page, photometric="minisblack")
    np.save(tmp_path / "b.npy", stack)
    stack.tofile(tmp_path / "c_56x40.raw")
    for name in ("a.tif", "imagej.tif", "thumbnail.tif", "b.npy", "c_56x40.raw"):
        said = []
        path = tmp_path / name
        frames = [read_frame(frame_path(path, number), check_size) for number in range(3)]
        assert count_frames(path) == 3 and np.array_equal(frames, stack)
        assert image_size(path) == (40, 56)
        first = read_infrared(path, report=lambda *args, said=said: said.append(args[2]))
        assert np.array_equal(first, gray_from_raw(stack[0], report=nothing))
        assert said[0] == f"{path} holds 3 images, of which the first is read."


def test_a_file_of_one_image_has_one(gray, tmp_path):
    Image.fromarray(gray).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "rgb.tif", np.dstack([gray] * 3), photometric="rgb")
    np.save(tmp_path / "rgb.npy", np.dstack([gray] * 3))
    (tmp_path / "broken.tif").write_bytes(b"no image")
    for name in ("a.png", "rgb.tif", "rgb.npy", "broken.tif"):
        assert count_frames(tmp_path / name) == 1


def test_the_preview_of_a_radiometric_jpeg_is_told(gray, tmp_path):
    Image.fromarray(gray).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    segment = b"FLIR\x00\x01\x00\x00" + bytes(50)
    header = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big")
    (tmp_path / "b.jpg").write_bytes(content[:2] + header + segment + content[2:])
    said = []
    for name in ("a.jpg", "b.jpg"):
        read_infrared(tmp_path / name, report=lambda *args: said.append(args[2]))
    assert len(said) == 1 and "b.jpg is a radiometric JPEG of FLIR: its preview is read" in said[0]
