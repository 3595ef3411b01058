"""One limit for both packages and Pillow."""

import io

import pytest
from PIL import Image

from d2kit.limits import DEFAULT, max_pixels, set_max_pixels


def test_pillow_follows_the_limit():
    assert max_pixels() == DEFAULT
    file = io.BytesIO()
    Image.new("L", (20, 30)).save(file, "png")
    try:
        set_max_pixels(598)
        assert max_pixels() == 598
        with pytest.raises(Image.DecompressionBombError):
            Image.open(file)
    finally:
        set_max_pixels(DEFAULT)
    assert Image.open(file).size == (20, 30)
