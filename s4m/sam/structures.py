"""Inputs and outputs of a promptable segmenter.

Points and boxes are x, y in pixels of the image that was encoded, with a pixel at its integer index: the prompt encoder
of segment-anything adds the half. Masks have that image's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.functional import resize, to_pil_image


@dataclass(frozen=True)
class Frame:
    """Place of an image in a segmenter's square input: resized, at the top left, padded at the bottom and right.

    For example, an image of 64 x 96 pixels is resized to 85 x 128 for an input of 128 pixels whose longest side it
    fills. Its point x = 30, y = 12 becomes x = 30 * 128 / 96 = 40, y = 12 * 85 / 64 = 15.9. The rows of the input from
    85 on are padding.

    Attributes:
        image_size: height, width of the image in pixels.
        input_size: height, width of the resized image.
        side: side of the square input in pixels.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    side: int

    def resize_image(self, image: torch.Tensor) -> torch.Tensor:
        """Resize (3, H, W) uint8 to (3, *input_size) uint8, as `ResizeLongestSide.apply_image` does."""
        if tuple(image.shape[1:]) == self.input_size:
            return image
        resized = np.array(resize(to_pil_image(image.cpu()), list(self.input_size)))
        return torch.from_numpy(resized).permute(2, 0, 1)

    def points_to_input(self, points: torch.Tensor) -> torch.Tensor:
        """Map points (..., 2) x, y of the image to the input, as `ResizeLongestSide.apply_coords_torch` does."""
        scale = [self.input_size[axis] / self.image_size[axis] for axis in (1, 0)]
        return points.float() * torch.tensor(scale, device=points.device)

    def masks_to_image(self, masks: torch.Tensor) -> torch.Tensor:
        """Resize logits (N, M, s, s) of the input to (N, M, *image_size), as `Sam.postprocess_masks` does."""
        masks = F.interpolate(masks, (self.side, self.side), mode="bilinear", align_corners=False)
        masks = masks[..., : self.input_size[0], : self.input_size[1]]
        return F.interpolate(masks, self.image_size, mode="bilinear", align_corners=False)


@dataclass
class Prompts:
    """N prompts for one image, each with P points and optionally a box.

    Attributes:
        points: (N, P, 2) float x, y in pixels of the image. P may be 0 if there are boxes.
        labels: (N, P) 1 for a point on the object, 0 for a point beside it, -1 for a padding point without meaning.
        boxes: (N, 4) float xyxy in pixels of the image, or None.

    Raises:
        ValueError: the shapes do not agree, or prompts have neither points nor boxes.
    """

    points: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor | None = None

    def __post_init__(self):
        if self.points.ndim != 3 or self.points.shape[2] != 2 or self.labels.shape != self.points.shape[:2]:
            shapes = f"{tuple(self.points.shape)} and {tuple(self.labels.shape)}"
            raise ValueError(f"Prompts need points (N, P, 2) and labels (N, P); their shapes are {shapes}.")
        if self.boxes is not None and self.boxes.shape != (len(self), 4):
            raise ValueError(f"Prompts.boxes must be ({len(self)}, 4); the shape is {tuple(self.boxes.shape)}.")
        if self.kind == (0, False):
            raise ValueError("Prompts without points need boxes.")

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: slice) -> "Prompts":
        return Prompts(self.points[rows], self.labels[rows], None if self.boxes is None else self.boxes[rows])

    @property
    def kind(self) -> tuple[int, bool]:
        """Number of points and whether there are boxes; prompts of equal kind fit into one decoder call."""
        return self.points.shape[1], self.boxes is not None

    @classmethod
    def cat(cls, parts: Sequence["Prompts"]) -> "Prompts":
        """Concatenate prompts of equal kind."""
        columns = [[getattr(part, name) for part in parts] for name in ("points", "labels", "boxes")]
        return cls(*[None if column[0] is None else torch.cat(column) for column in columns])

    def to_input(self, frame: Frame, device: torch.device) -> "Prompts":
        """Return the prompts in pixels of the segmenter's input, on the device."""
        boxes = self.boxes
        if boxes is not None:
            boxes = frame.points_to_input(boxes.to(device).reshape(-1, 2, 2)).reshape(-1, 4)
        return Prompts(frame.points_to_input(self.points.to(device)), self.labels.to(device).float(), boxes)


@dataclass
class Answer:
    """Masks that answer the prompts of one image.

    Attributes:
        masks: (N, M, H, W) float32 mask logits at the image's size, above 0 on the object. M is 3 (part, whole, more),
            or 1 for the best mask alone.
        quality: (N, M) float32 predicted IoU of each mask.
    """

    masks: torch.Tensor
    quality: torch.Tensor


@dataclass
class Embedding:
    """Image features of a batch; `embedding[[0, 2]]` is the embedding of its first and third image.

    Attributes:
        features: (B, C, h, w) float.
        frames: place of each image in the segmenter's input.
    """

    features: torch.Tensor
    frames: list[Frame]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, indices: Sequence[int]) -> "Embedding":
        return Embedding(self.features[list(indices)], [self.frames[i] for i in indices])

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """Height, width of each image in pixels."""
        return [frame.image_size for frame in self.frames]

    @property
    def valid(self) -> list[tuple[float, float]]:
        """Rows and columns of the grid (h, w) that each image covers; fractions mean a cell that is covered in part.

        The pixel (x, y) of an image (H, W) lies in column floor((x + 0.5) * columns / W), and likewise for rows.
        """
        h, w = self.features.shape[-2:]
        return [(f.input_size[0] * h / f.side, f.input_size[1] * w / f.side) for f in self.frames]
