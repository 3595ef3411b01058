"""Structural distillation (S4M, SD): the student's pixel features learn where things end from the frozen SAM.

Frames: query points are x, y in pixels of the un-padded image, and a pixel is named by its index (SAM's convention; its
prompt encoder adds the half). SAM's grid covers the image padded at the bottom and right. `extent` is the number of its
rows and columns that the image itself covers, possibly fractional. Only ceil(extent) rows and columns are used: padded
cells are neither queries nor keys. The student's feature map covers the network input, padded at the bottom and right
as well. Similarities are float32, under autocast as well; float64 stays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from s4m.sam import Embedding, PromptableSegmenter, Prompts

_SQUARED_NORM_FLOOR = 1e-6  # The gradient of a zero feature vector stays finite.


@dataclass(frozen=True)
class SamStructure:
    """The part of SAM's answer about one image that structural distillation keeps.

    Attributes:
        similarity: (P, rows * cols) cosine similarities S_sam in [-1, 1], without a gradient.
        cells: (P, 2) int64 row and column of each query on SAM's grid.
        extent: rows and columns of SAM's grid that the un-padded image covers, possibly fractional.
    """

    similarity: torch.Tensor
    cells: torch.Tensor
    extent: tuple[float, float]


def grid_shape(extent: Sequence[float]) -> tuple[int, int]:
    """Return the rows and columns of SAM's grid that hold a part of the image."""
    return math.ceil(float(extent[0])), math.ceil(float(extent[1]))


def draw_query_points(
    image_size: tuple[int, int],
    foreground: torch.Tensor | None,
    num_points: int,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw query points: half of them on foreground, the rest uniformly over the image.

    Args:
        image_size: height and width of the un-padded image in pixels.
        foreground: (H, W) bool, the pixels of any ground-truth instance, or None. It may be padded at the bottom and
            right.
        num_points: P. Uniform points take the place of missing ones where the foreground has less than P // 2 pixels.
        generator: a generator on the CPU; None draws from torch's global one.

    Returns:
        (P, 2) float32 x, y on the CPU, whole pixel indices, foreground points first and without repetition.
    """
    height, width = image_size
    chosen = torch.zeros(0, dtype=torch.int64)
    if foreground is not None:
        pixels = foreground[:height, :width].flatten().nonzero()[:, 0].cpu()
        chosen = pixels[torch.randperm(len(pixels), generator=generator)[: num_points // 2]]
    uniform = torch.randint(height * width, (num_points - len(chosen),), generator=generator)
    index = torch.cat([chosen, uniform])
    return torch.stack([index % width, index // width], dim=1).float()


def points_to_cells(points: torch.Tensor, image_size: tuple[int, int], extent: Sequence[float]) -> torch.Tensor:
    """Return the cells (P, 2) int64, row and column, of SAM's grid that hold the points.

    Example: the image is 100 pixels wide and covers 6.25 columns. The point with x = 99 has its center at 99.5 pixels,
    that is 99.5 * 6.25 / 100 = 6.22 columns, so it lies in column 6, the last one, which the image fills by a quarter.

    Args:
        points: (P, 2) x, y pixel indices of the un-padded image.
        image_size: height and width of that image in pixels.
        extent: rows and columns of the grid that the image covers.
    """
    scale = torch.tensor([float(extent[i]) / image_size[i] for i in (0, 1)], device=points.device)
    last = torch.tensor(grid_shape(extent), device=points.device) - 1
    cells = ((points.flip(1) + 0.5) * scale).floor().long()
    return cells.clamp(min=0).minimum(last)


def _unit(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    vectors = vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
    return vectors * (vectors.square().sum(dim, keepdim=True) + _SQUARED_NORM_FLOOR).rsqrt()


def structural_similarity(tokens: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Return cosine similarities (P, h * w) of the token at each query's own cell with the tokens of all cells.

    Args:
        tokens: (P, C, h, w) image tokens of the mask decoder, one map for each prompt, padded cells cut off.
        cells: (P, 2) row, column.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        unit = _unit(tokens, dim=1)
        query = unit[torch.arange(len(tokens), device=tokens.device), :, cells[:, 0], cells[:, 1]]
        return torch.bmm(query[:, None], unit.flatten(2))[:, 0]


def resize_to_grid(
    features: torch.Tensor, image_size: tuple[int, int], padded_size: tuple[int, int], extent: Sequence[float]
) -> torch.Tensor:
    """Read student features bilinearly at the centers of SAM's cells; nothing of the padding is read.

    Args:
        features: (C, h', w'), covering `padded_size` pixels.
        image_size: height and width of the image inside the network input, in pixels.
        padded_size: height and width of the network input in pixels.
        extent: rows and columns of SAM's grid that the image covers.

    Returns:
        (C, rows, cols), with a gradient to `features`.
    """
    axes = []
    valid = []
    for cells, count, image, padded, size in zip(
        extent, grid_shape(extent), image_size, padded_size, features.shape[1:], strict=True
    ):
        inside = math.ceil(image * size / padded)
        center = torch.arange(count, device=features.device, dtype=features.dtype) + 0.5
        position = (center * (image / float(cells))).clamp(max=image) * (size / padded)
        axes.append(2 * position / inside - 1)
        valid.append(inside)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    image_features = features[None, :, : valid[0], : valid[1]]
    return F.grid_sample(image_features, grid[None], "bilinear", padding_mode="border", align_corners=False)[0]


def student_similarity(
    features: torch.Tensor,
    cells: torch.Tensor,
    image_size: tuple[int, int],
    padded_size: tuple[int, int],
    extent: Sequence[float],
) -> torch.Tensor:
    """Return S_stu (P, rows * cols), the cosine similarities of features (C, h', w') at SAM's queries and cells.

    `cells` (P, 2) are row and column of the queries on SAM's grid; see `resize_to_grid` for the other arguments.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        unit = _unit(resize_to_grid(features, image_size, padded_size, extent), dim=0)
        query = unit[:, cells[:, 0], cells[:, 1]]
        return query.t() @ unit.flatten(1)


def structural_distillation_loss(
    features: torch.Tensor,
    structures: Sequence[SamStructure],
    image_sizes: Sequence[tuple[int, int]],
    padded_size: tuple[int, int],
) -> torch.Tensor:
    """Return loss_sd = smooth-L1(S_stu, S_sam), the mean over every query and every un-padded cell of the batch.

    Where there is nothing to compare, it is zero and still part of the graph.

    Args:
        features: (B, C, h', w') pixel features of the student for the padded network input.
        structures: the result of `sam_similarity`, one for each image.
        image_sizes: height and width of each image in the network input, before padding.
        padded_size: height and width of the network input.
    """
    total = features.flatten()[:0].sum()  # An empty sum stays in the graph and cannot overflow in half precision.
    count = 0
    for feature, structure, size in zip(features, structures, image_sizes, strict=True):
        cells = structure.cells.to(features.device)
        student = student_similarity(feature, cells, size, padded_size, structure.extent)
        target = structure.similarity.detach().to(student)
        total = total + F.smooth_l1_loss(student, target, reduction="sum")
        count += target.numel()
    return total / max(count, 1)


@torch.no_grad()
def sam_similarity(
    segmenter: PromptableSegmenter, embedding: Embedding, points: Sequence[torch.Tensor], chunk: int
) -> list[SamStructure]:
    """Compute S_sam of a batch, with every query point as a prompt of its own.

    Args:
        segmenter: the frozen SAM.
        embedding: the embedding of the images.
        points: (P, 2) x, y pixel indices for each image; P may be 0.
        chunk: number of prompts whose decoder tokens are in memory at once; 0 leaves the choice to the segmenter.
    """
    extents = embedding.valid
    device = segmenter.device
    cells = [
        points_to_cells(queries.to(device), size, extent)
        for queries, size, extent in zip(points, embedding.image_sizes, extents, strict=True)
    ]
    shapes = [grid_shape(extent) for extent in extents]
    maps = [
        torch.zeros(len(queries), rows * cols, device=device)
        for queries, (rows, cols) in zip(points, shapes, strict=True)
    ]
    prompts = [Prompts(queries[:, None], torch.ones(len(queries), 1, device=queries.device)) for queries in points]
    for image, queries, tokens in segmenter.iter_tokens(embedding, prompts, chunk):
        rows, cols = shapes[image]
        maps[image][queries] = structural_similarity(tokens[..., :rows, :cols], cells[image][queries])
        del tokens  # The memory is free before the next chunk is made.
    return [SamStructure(*parts) for parts in zip(maps, cells, extents, strict=True)]
