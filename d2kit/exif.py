"""The EXIF orientation of an image file, by which viewers turn it."""

from PIL import Image

_ORIENTATION = 0x0112  # tag of EXIF
_EXIF_KEYS = ("exif", "xmp", "XML:com.adobe.xmp")  # of Pillow's info; only a TIFF has its tag elsewhere


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 where there is none."""
    if image.format != "TIFF" and not any(key in image.info for key in _EXIF_KEYS):
        return 1  # Pillow would decode a whole PNG to look for a tag behind its pixels.
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many types for damaged tags, which its loader ignores, too.
        return 1
    return value if value in range(1, 9) else 1
