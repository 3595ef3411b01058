"""Structural distillation (S4M, SD): the student's pixel features learn where things end from the frozen SAM.

Frames. Query points are x, y in pixels of the un-padded image, a pixel named by its index (SAM's convention: its prompt
encoder adds the half). SAM's grid covers the image padded at the bottom and right; `extent` is how many of its rows and
columns the image itself covers, possibly fractional. Only ceil(extent) rows and columns exist here: padded cells are
neither queries nor keys. The student's feature map covers the network input, padded at the bottom and right as well.
Similarities are computed in float32 (float64 stays) whatever autocast says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from s4m.sam import Embedding, PromptableSegmenter, Prompts

_SQUARED_NORM_FLOOR = 1e-6  # keeps the gradient of a zero feature vector finite


@dataclass(frozen=True)
class SamStructure:
    """What SAM says of one image, all that structural distillation keeps of it.

    Attributes:
        similarity: (P, rows * cols) cosine similarities S_sam in [-1, 1], no gradient.
        cells: (P, 2) int64 row, column of each query on SAM's grid.
        extent: rows, columns of SAM's grid that the un-padded image covers, possibly fractional.
    """

    similarity: torch.Tensor
    cells: torch.Tensor
    extent: tuple[float, float]


def grid_shape(extent: Sequence[float]) -> tuple[int, int]:
    """Rows and columns of SAM's grid that hold a part of the image."""
    return math.ceil(float(extent[0])), math.ceil(float(extent[1]))


def draw_query_points(
    image_size: tuple[int, int],
    foreground: torch.Tensor | None,
    num_points: int,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Query points: half on foreground, the rest uniform over the image.

    Args:
        image_size: height, width of the un-padded image in pixels.
        foreground: (H, W) bool, any ground-truth instance; None: there is none. It may be larger than the image where
            it was padded at the bottom and right.
        num_points: P. Where the foreground has less than P // 2 pixels, uniform points take their place.
        generator: of the CPU; None: torch's own.

    Returns:
        (P, 2) float32 x, y, whole pixel indices, foreground points first and without repetition; on the CPU.
    """
    height, width = image_size
    chosen = torch.zeros(0, dtype=torch.int64)
    if foreground is not None:
        pixels = foreground[:height, :width].flatten().nonzero()[:, 0].cpu()
        chosen = pixels[torch.randperm(len(pixels), generator=generator)[: num_points // 2]]
    anywhere = torch.randint(height * width, (num_points - len(chosen),), generator=generator)
    index = torch.cat([chosen, anywhere])
    return torch.stack([index % width, index // width], dim=1).float()


def points_to_cells(points: torch.Tensor, image_size: tuple[int, int], extent: Sequence[float]) -> torch.Tensor:
    """Cells of SAM's grid that hold the points.

    Args:
        points: (P, 2) x, y pixel indices of the un-padded image.
        image_size: height, width of that image.
        extent: rows, columns of the grid that the image covers.

    Returns:
        (P, 2) int64 row, column.
    """
    scale = torch.tensor([float(extent[i]) / image_size[i] for i in (0, 1)], device=points.device)
    last = torch.tensor(grid_shape(extent), device=points.device) - 1
    cells = ((points.flip(1) + 0.5) * scale).floor().long()
    return cells.clamp(min=0).minimum(last)


def _unit(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    vectors = vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
    return vectors * (vectors.square().sum(dim, keepdim=True) + _SQUARED_NORM_FLOOR).rsqrt()


def structural_similarity(tokens: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of the token at each query's own cell with the tokens of all cells, one map a query.

    Args:
        tokens: (P, C, h, w) image tokens of the mask decoder, one map for each prompt, padded cells cut off.
        cells: (P, 2) row, column.

    Returns:
        (P, h * w), float32 for half-precision tokens.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        unit = _unit(tokens, dim=1)
        query = unit[torch.arange(len(tokens), device=tokens.device), :, cells[:, 0], cells[:, 1]]
        return torch.bmm(query[:, None], unit.flatten(2))[:, 0]


def resize_to_grid(
    features: torch.Tensor, image_size: tuple[int, int], padded_size: tuple[int, int], extent: Sequence[float]
) -> torch.Tensor:
    """Student features, bilinearly read at the centres of SAM's cells; nothing of the padding is read.

    Args:
        features: (C, h', w'), covering `padded_size` pixels.
        image_size: height, width of the image inside the network input; padded_size: of that input.
        extent: rows, columns of SAM's grid that the image covers.

    Returns:
        (C, rows, cols), with a gradient to `features`.
    """
    axes, valid = [], []
    for cells, count, image, padded, size in zip(
        extent, grid_shape(extent), image_size, padded_size, features.shape[1:], strict=True
    ):
        inside = math.ceil(image * size / padded)
        centre = torch.arange(count, device=features.device, dtype=features.dtype) + 0.5
        position = (centre * (image / float(cells))).clamp(max=image) * (size / padded)
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
    """S_stu: cosine similarities of one feature map at the same queries and cells as SAM's.

    Args:
        features: (C, h', w') pixel features of one image, covering `padded_size` pixels.
        cells: (P, 2) row, column of the queries on SAM's grid.
        image_size, padded_size, extent: as in `resize_to_grid`.

    Returns:
        (P, rows * cols), with a gradient to `features`.
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
    """loss_sd = smooth-L1(S_stu, S_sam), the mean over every query and every un-padded cell of the batch.

    Args:
        features: (B, C, h', w') highest-resolution pixel features of the student for the padded network input.
        structures: what SAM says of each image, from `sam_similarity`.
        image_sizes: height, width of each image in the network input, before padding.
        padded_size: height, width of the network input.

    Returns:
        a scalar; zero, still part of the graph, where there is nothing to compare.
    """
    total = features.flatten()[:0].sum()  # an empty sum stays in the graph and cannot overflow in half precision
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
    """S_sam of a batch: every query point is a prompt of its own, streamed in chunks.

    At most `chunk` maps of decoder tokens exist at a time; what stays is one similarity map a query.

    Args:
        segmenter: the frozen SAM.
        embedding: of the images.
        points: of each image, (P, 2) x, y pixel indices; P = 0 asks nothing.
        chunk: prompts whose tokens are held at once; 0: the segmenter's own choice.
    """
    extents, device = embedding.valid, segmenter.device
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
        del tokens  # before the next chunk is made
    return [SamStructure(*parts) for parts in zip(maps, cells, extents, strict=True)]
