"""What goes into and comes out of a promptable segmenter.

Frames: points and boxes are x, y in pixels of the image that was encoded, a pixel named by its index (the convention of
segment-anything, whose prompt encoder adds the half); masks have that image's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.utils.transforms import ResizeLongestSide
from torch.nn import functional as F
from torchvision.transforms.functional import resize, to_pil_image


@dataclass(frozen=True)
class Frame:
    """How an image lies in a segmenter's square input: resized, at the top left, padded at the bottom and right.

    Attributes:
        image_size: height, width of the image in pixels.
        input_size: height, width of the resized image.
        side: of the square input.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    side: int

    @classmethod
    def longest_side(cls, image_size: tuple[int, int], side: int) -> "Frame":
        """The frame that keeps the aspect and fills the input with the longest side."""
        height, width = ResizeLongestSide.get_preprocess_shape(*image_size, side)
        return cls(tuple(image_size), (max(height, 1), max(width, 1)), side)

    def resize_image(self, image: torch.Tensor) -> torch.Tensor:
        """(3, H, W) uint8 -> (3, *input_size) uint8, as `ResizeLongestSide.apply_image` does it."""
        if tuple(image.shape[1:]) == self.input_size:
            return image
        resized = np.array(resize(to_pil_image(image.cpu()), list(self.input_size)))
        return torch.from_numpy(resized).permute(2, 0, 1)

    def points_to_input(self, points: torch.Tensor) -> torch.Tensor:
        """Points (..., 2) x, y of the image -> of the input, as `ResizeLongestSide.apply_coords_torch` does it."""
        scale = [self.input_size[axis] / self.image_size[axis] for axis in (1, 0)]
        return points.float() * torch.tensor(scale, device=points.device)

    def masks_to_image(self, masks: torch.Tensor) -> torch.Tensor:
        """Logits (N, M, s, s) of the whole input, any s -> (N, M, *image_size), as `Sam.postprocess_masks` does it."""
        masks = F.interpolate(masks, (self.side, self.side), mode="bilinear", align_corners=False)
        masks = masks[..., : self.input_size[0], : self.input_size[1]]
        return F.interpolate(masks, self.image_size, mode="bilinear", align_corners=False)


@dataclass
class Prompts:
    """What is asked of one image: N prompts, each with P points and, where given, a box.

    Attributes:
        points: (N, P, 2) float x, y in pixels of the image. P may be 0 when there are boxes.
        labels: (N, P) 1 for a point on the object, 0 for one beside it, -1 for a filler that says nothing.
        boxes: (N, 4) float xyxy in pixels of the image, or None.

    Raises:
        ValueError: shapes that do not agree, or prompts that hold nothing.
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
        """Number of points, and whether there are boxes: prompts of one kind fit into one decoder call."""
        return self.points.shape[1], self.boxes is not None

    @classmethod
    def cat(cls, parts: Sequence["Prompts"]) -> "Prompts":
        """Prompts of one kind and one frame, one after the other."""
        columns = [[getattr(part, name) for part in parts] for name in ("points", "labels", "boxes")]
        return cls(*[None if column[0] is None else torch.cat(column) for column in columns])

    def to_input(self, frame: Frame, device: torch.device) -> "Prompts":
        """The prompts in pixels of the segmenter's input, on the device."""
        boxes = self.boxes
        if boxes is not None:
            boxes = frame.points_to_input(boxes.to(device).reshape(-1, 2, 2)).reshape(-1, 4)
        return Prompts(frame.points_to_input(self.points.to(device)), self.labels.to(device).float(), boxes)


@dataclass
class Answer:
    """What the segmenter answers for one image.

    Attributes:
        masks: (N, M, H, W) float32 mask logits at the image's size; above 0 is the object. M is 3 (part, whole, more),
            or 1 where only the best was asked for.
        quality: (N, M) float32 predicted IoU of each mask.
    """

    masks: torch.Tensor
    quality: torch.Tensor


@dataclass
class Embedding:
    """Image features of a batch; `embedding[[0, 2]]` is that of some of its images.

    Attributes:
        features: (B, C, h, w) float.
        frames: how each image lies in the segmenter's input.
    """

    features: torch.Tensor
    frames: list[Frame]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int | slice | Sequence[int]) -> "Embedding":
        if isinstance(index, int):
            index = [index]
        positions = list(range(len(self))[index]) if isinstance(index, slice) else [int(i) for i in index]
        return Embedding(self.features[positions], [self.frames[i] for i in positions])

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """Height, width of each image in pixels."""
        return [frame.image_size for frame in self.frames]

    @property
    def valid(self) -> list[tuple[float, float]]:
        """Rows, columns of the grid (h, w) that each image covers, fractional where a cell is covered in part.

        The pixel (x, y) of an image (H, W) lies in column floor((x + 0.5) * columns / W), and so for rows.
        """
        h, w = self.features.shape[-2:]
        return [(f.input_size[0] * h / f.side, f.input_size[1] * w / f.side) for f in self.frames]

    def to(self, device: torch.device | str) -> "Embedding":
        """On another device."""
        return Embedding(self.features.to(device), self.frames)

    @classmethod
    def cat(cls, parts: Sequence["Embedding"]) -> "Embedding":
        """The embeddings of several batches as one."""
        return cls(torch.cat([part.features for part in parts]), [frame for part in parts for frame in part.frames])
