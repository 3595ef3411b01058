"""Pictures for a page: masks are drawn as outlines and tints, and the file is a part of the page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 360  # pixels; the longer side of a picture on a page


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        caption: text below it.
        source: what `data_uri` returns.
    """

    caption: str
    source: str


def draw_masks(
    image: np.ndarray, masks: Sequence[np.ndarray], colors: Sequence[str], *, tint: float = 0.3
) -> np.ndarray:
    """Draw masks on an image that is resized, so that outlines have the same width in small and large images.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (H, W) bool each.
        colors: a color "#rrggbb" for each mask.
        tint: share of the color inside the mask, in [0, 1].

    Returns:
        (h, w, 3) uint8 RGB, whose longer side has SIDE pixels.
    """
    scale = SIDE / max(image.shape[:2])
    size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
    result = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    for mask, color in zip(masks, colors, strict=True):
        rgb = tuple(bytes.fromhex(color[1:]))
        resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        inside = resized > 0
        result[inside] = ((1 - tint) * result[inside] + tint * np.array(rgb)).astype(np.uint8)
        contours, _ = cv2.findContours(resized, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(result, contours, -1, rgb, 2)
    return result


def data_uri(image: np.ndarray) -> str:
    """Return (H, W, 3) uint8 RGB as the address of a JPEG that holds it."""
    content = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
