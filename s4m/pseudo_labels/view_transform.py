"""The mapping of points and masks between an image and its augmented view."""

import numpy as np
import torch
from detectron2.data.transforms import Transform, TransformList
from torch.nn import functional as F


class ViewTransform:
    """Maps points from an augmented view to its un-augmented image (source), and masks from the source to the view.

    The transforms may be any of Detectron2's that together move pixels by an affine map: resize, crop, pad, flip,
    rotate, extent; color transforms move none. The map comes from the transforms' own `apply_coords`, which works for a
    crop that does not know the size it was cut from, too.

    Args:
        transforms: the transforms from the source to the view, as an `AugmentationList` returns them.
        source_size, view_size: height and width in pixels.

    Raises:
        ValueError: the transforms are not affine, or squeeze the image to nothing.
    """

    def __init__(self, transforms: Transform | TransformList, source_size: tuple[int, int], view_size: tuple[int, int]):
        self.source_size = tuple(source_size)
        self.view_size = tuple(view_size)
        height, width = source_size
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
        moved = np.asarray(transforms.apply_coords(corners.copy()), dtype=np.float64)
        forward = np.eye(3)
        forward[:2, 0] = (moved[1] - moved[0]) / width
        forward[:2, 1] = (moved[2] - moved[0]) / height
        forward[:2, 2] = moved[0]
        if np.abs(moved[1] + moved[2] - moved[0] - moved[3]).max() > 1e-3 * max(*source_size, *view_size):
            raise ValueError(f"ViewTransform needs transforms that are affine together, which {transforms} are not.")
        if abs(np.linalg.det(forward)) < 1e-12:
            raise ValueError(f"ViewTransform cannot invert {transforms}.")
        self._to_source = torch.from_numpy(np.linalg.inv(forward)[:2]).float()

    def points_to_source(self, points: torch.Tensor) -> torch.Tensor:
        """Map points (..., 2), x, y pixel indices in the view, to the source, and clamp them to it."""
        # Detectron2's coordinates have pixel centers at halves.
        moved = self._moved(points.float() + 0.5) - 0.5
        height, width = self.source_size
        return torch.minimum(moved.clamp(min=0), moved.new_tensor([width - 1, height - 1]))

    def _moved(self, points: torch.Tensor) -> torch.Tensor:
        """Map coordinates (..., 2) of the view to the source, in float32: half precision is coarser than a pixel."""
        matrix = self._to_source.to(points.device)
        with torch.autocast(points.device.type, enabled=False):
            return points @ matrix[:, :2].T + matrix[:, 2]

    def masks_to_view(self, masks: torch.Tensor, outside: float = -20.0) -> torch.Tensor:
        """Read masks of the source bilinearly at the pixels of the view.

        Args:
            masks: (N, *source_size) float logits, or bool.
            outside: value of logits where the view shows nothing of the source (padding); bool masks are False there.

        Returns:
            (N, *view_size) of the same dtype.
        """
        if masks.dtype == torch.bool:
            return self.masks_to_view(masks.float(), outside=0.0) > 0.5
        height, width = self.view_size
        x = torch.arange(width, device=masks.device) + 0.5
        y = torch.arange(height, device=masks.device) + 0.5
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        size = grid.new_tensor(self.source_size[::-1])
        source = self._moved(grid)
        inside = ((source >= 0) & (source < size)).all(-1)
        normal = (2 * source / size - 1)[None].to(masks.dtype)
        values = F.grid_sample(masks[None], normal, "bilinear", padding_mode="border", align_corners=False)[0]
        return torch.where(inside, values, values.new_tensor(outside))
