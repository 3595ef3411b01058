"""The largest image that a process reads: INPUT.MAX_PIXELS."""

from PIL import Image

DEFAULT = 178_956_970  # pixels, above which Pillow raises an error by default; reading takes about 40 bytes a pixel

_max_pixels = DEFAULT


def set_max_pixels(count: int) -> None:
    """Set the limit for this process, and for Pillow."""
    global _max_pixels
    _max_pixels = count
    Image.MAX_IMAGE_PIXELS = count // 2  # Pillow warns above this, and refuses images of more than twice as many.


def max_pixels() -> int:
    """Return the largest number of pixels of an image."""
    return _max_pixels
