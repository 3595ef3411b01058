"""Image files are read here; an error names the file that cannot be read in one sentence."""

import os
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from PIL import Image, ImageFile


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale an integer image of 16 bits, which Pillow would clip at 255, to 8 bits."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image, dtype=np.float64) / 257  # 65535 / 255
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


def read_image(file_name: str, image_format: str) -> np.ndarray:
    """Read an image and turn it as its EXIF tag says. Gray, palette, RGBA and 16-bit images are converted.

    Args:
        file_name: path of the image.
        image_format: "BGR", "RGB" or another format of Detectron2's `read_image`.

    Returns:
        (H, W, C) uint8 array.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image, is damaged, or has more pixels than Pillow allows.
    """
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # Another package may have set it, and a torn image would load half gray.
    try:
        with open(file_name, "rb") as file:
            image = Image.open(file)
            image.load()
            image = _to_eight_bits(_apply_exif_orientation(image))
            return convert_PIL_to_numpy(image, image_format)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image '{file_name}' does not exist") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"'{file_name}' is not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"image '{file_name}' is too large: {error} The limit is twice PIL.Image.MAX_IMAGE_PIXELS: cut the image "
            "into tiles."
        ) from error
    except Exception as error:  # Pillow's decoders raise many types for a damaged file.
        raise ValueError(f"image '{file_name}' is truncated or damaged ({error})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def first_missing(file_names: Iterable[str]) -> str | None:
    """Return the first path without a file, or None. Each folder is listed once, which is quick for large sets."""
    by_folder = defaultdict(list)
    for file_name in file_names:
        by_folder[os.path.dirname(file_name)].append(file_name)
    for folder, members in by_folder.items():
        try:
            present = set(os.listdir(folder or "."))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            present = set()
        for file_name in members:
            if os.path.basename(file_name) not in present:
                return file_name
    return None
