import cv2
import numpy as np
import pytest
from PIL import Image

from s4m.data import duplicates
from s4m.data.duplicates import find_copies, find_reencoded


@pytest.fixture
def picture():
    """(120, 160, 3) uint8 picture of smooth colors, with a square of 16 pixels."""
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    image = cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)
    image[40:56, 40:56] = 255
    return image


def write(folder, **contents):
    paths = {}
    for name, content in contents.items():
        paths[name] = str(folder / name)
        (folder / name).write_bytes(content)
    return paths


def test_nothing_makes_no_pair(tmp_path):
    paths = write(tmp_path, a=b"1")
    assert find_copies([], []) == find_copies(paths.values(), []) == find_copies([], paths.values()) == []


def test_same_bytes_make_a_pair_and_equal_sizes_do_not(tmp_path):
    paths = write(tmp_path, a=b"same", b=b"same", c=b"diff", d=b"longer")
    assert find_copies([paths["a"]], [paths["b"], paths["c"], paths["d"]]) == [(paths["a"], paths["b"])]


def test_many_pairs_are_ordered(tmp_path):
    paths = write(tmp_path, a=b"x", b=b"y", c=b"x", d=b"y", e=b"x")
    found = find_copies([paths["b"], paths["a"]], [paths["e"], paths["d"], paths["c"]])
    assert found == [(paths["a"], paths["c"]), (paths["a"], paths["e"]), (paths["b"], paths["d"])]


def test_a_path_in_both_sets_is_a_pair(tmp_path):
    path = write(tmp_path, a=b"x")["a"]
    assert find_copies([path], [path]) == [(path, path)]


def save(folder, name, pixels, **options):
    path = str(folder / name)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_pictures_that_were_encoded_anew_make_pairs(tmp_path, picture, monkeypatch):
    original = save(tmp_path, "a.bmp", picture)
    turned = Image.Exif()
    turned[0x0112] = 6
    copies = [
        save(tmp_path, "b.png", picture, compress_level=1),
        save(tmp_path, "c.jpg", picture, quality=75),
        save(tmp_path, "d.jpg", np.rot90(picture).copy(), quality=90, exif=turned),
    ]
    other = save(tmp_path, "e.png", picture[::-1].copy())
    assert find_reencoded([original], [*copies, other]) == [(original, copy) for copy in copies]
    monkeypatch.setattr(duplicates, "_MOST_PICTURES", 4)
    assert find_reencoded([original], [*copies, other]) == []


def test_neighbors_of_a_video_and_blank_pictures_make_no_pair(tmp_path, picture):
    moved = picture.copy()
    moved[40:56, 40:60] = 255
    random = np.random.default_rng(0)
    black = [random.poisson(1.5, (120, 160)).astype(np.uint8) for _ in range(2)]
    (tmp_path / "torn.png").write_bytes(b"no image")
    first = [save(tmp_path, "a.png", picture), save(tmp_path, "b.png", black[0]), save(tmp_path, "c.png", 0 * black[0])]
    second = [save(tmp_path, "d.png", moved), save(tmp_path, "e.png", black[1]), save(tmp_path, "f.png", 0 * black[0])]
    assert find_reencoded(first, [*second, str(tmp_path / "torn.png")]) == []
