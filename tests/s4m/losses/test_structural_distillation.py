"""Structural distillation against hand-written references, on odd sizes, without labels, and its gradient."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from s4m.losses import structural_distillation as sd


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class TokenSegmenter:
    """Answers each point with tokens that depend on that point alone, and remembers how many it made at once."""

    device = torch.device("cpu")

    def __init__(self, shape=(8, 6, 6)):
        self.shape, self.calls = shape, []

    def iter_tokens(self, embedding, prompts, chunk=0):
        for image, some in enumerate(prompts):
            assert some.points.shape[1:] == (1, 2)
            assert (some.labels == 1).all()
            for start in range(0, len(some), chunk):
                points = some.points[start : start + chunk, 0]
                self.calls.append(len(points))
                yield image, slice(start, start + len(points)), torch.stack([self.tokens(p) for p in points])

    def tokens(self, point):
        seed = generator(int(point[0] * 1000 + point[1]))
        return torch.randn(self.shape, generator=seed).requires_grad_()


def embedding_of(extents, sizes):
    return SimpleNamespace(valid=extents, image_sizes=sizes)


def cosine(a, b):
    return (a * b).sum() / (a.norm() * b.norm())


def test_half_the_queries_are_foreground():
    foreground = torch.zeros(37, 53, dtype=torch.bool)
    foreground[30:, 50:] = True
    points = sd.draw_query_points((37, 53), foreground, 20, generator())
    assert points.shape == (20, 2)
    assert (points[:10, 0] >= 50).all()
    assert (points[:10, 1] >= 30).all()
    assert len({tuple(p) for p in points[:10].tolist()}) == 10
    assert (points >= 0).all()
    assert (points < torch.tensor([53, 37])).all()
    assert (points == points.round()).all()


@pytest.mark.parametrize("pixels", [0, 1, 3])
def test_too_little_foreground_is_filled_uniformly(pixels):
    foreground = torch.zeros(20, 30, dtype=torch.bool)
    foreground.view(-1)[:pixels] = True
    points = sd.draw_query_points((20, 30), foreground, 4000, generator())
    inside = foreground[points[:, 1].long(), points[:, 0].long()]
    assert inside[:pixels].all()
    rest = points[pixels:]
    assert len(rest) == 4000 - pixels
    assert rest.mean(dim=0).sub(torch.tensor([14.5, 9.5])).abs().max() < 0.6


def test_padded_foreground_is_never_a_query():
    foreground = torch.zeros(40, 40, dtype=torch.bool)
    foreground[:, 25:] = True
    points = sd.draw_query_points((30, 20), foreground, 200, generator())
    assert (points < torch.tensor([20, 30])).all()
    assert torch.equal(points, sd.draw_query_points((30, 20), None, 200, generator()))


def test_queries_follow_the_generator():
    mask = torch.rand(16, 16, generator=generator()) > 0.5
    draws = [sd.draw_query_points((16, 16), mask, 32, generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_cells_of_a_non_square_image():
    # 30 x 40 pixels cover 4.5 x 6 cells, so a cell is 6 2/3 pixels wide
    points = torch.tensor([[0, 0], [39, 29], [6, 6], [7, 7], [13, 26], [13, 27]])
    cells = sd.points_to_cells(points, (30, 40), (4.5, 6.0))
    assert cells.tolist() == [[0, 0], [4, 5], [0, 0], [1, 1], [3, 2], [4, 2]]


def test_similarity_is_the_cosine_with_the_own_cell():
    tokens = torch.randn(3, 5, 2, 4, generator=generator(), dtype=torch.float64)
    cells = torch.tensor([[0, 0], [1, 3], [1, 2]])
    result = sd.structural_similarity(tokens, cells)
    assert result.shape == (3, 8)
    for p, (row, col) in enumerate(cells.tolist()):
        for cell in range(8):
            expected = cosine(tokens[p, :, row, col], tokens[p, :, cell // 4, cell % 4])
            assert result[p, cell] == pytest.approx(expected.item(), abs=1e-5)


def test_half_precision_tokens_are_compared_in_float32():
    tokens = torch.randn(2, 96, 4, 4, generator=generator()) * 200  # their squares overflow half precision
    cells = torch.tensor([[0, 1], [3, 3]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = sd.structural_similarity(tokens.half(), cells)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, sd.structural_similarity(tokens, cells), atol=1e-3, rtol=0)


def test_resizing_an_unpadded_map_is_bilinear_interpolation():
    features = torch.randn(3, 20, 12, generator=generator())
    for grid in ((10, 8), (20, 12), (31, 17)):
        expected = F.interpolate(features[None], grid, mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(sd.resize_to_grid(features, (80, 48), (80, 48), grid), expected)


def test_padding_never_reaches_the_grid():
    features = torch.full((2, 16, 16), math.nan)
    features[:, :11, :7] = 1.0  # 43 x 27 pixels of 64 x 64, stride 4
    grid = sd.resize_to_grid(features, (43, 27), (64, 64), (8.0, 5.02))
    assert grid.shape == (2, 8, 6)
    torch.testing.assert_close(grid, torch.ones_like(grid))


def test_the_grid_reads_positions_in_the_frame_of_the_image():
    # features hold their own x and y in pixels; the grid must read the centers of its cells
    y, x = torch.meshgrid(torch.arange(32) * 2 + 1.0, torch.arange(40) * 2 + 1.0, indexing="ij")
    grid = sd.resize_to_grid(torch.stack([y, x]), (48, 60), (64, 80), (8.0, 10.0))
    torch.testing.assert_close(grid[0, :, 0], torch.arange(8) * 6 + 3.0)
    torch.testing.assert_close(grid[1, 0], torch.arange(10) * 6 + 3.0)


def batch(dtype=torch.float32):
    sizes, padded = [(30, 40), (32, 17)], (32, 40)
    extents = [(4.5, 6.0), (6.0, 3.2)]
    features = torch.randn(2, 5, 8, 10, generator=generator(), dtype=dtype)
    structures = []
    for seed, (extent, count) in enumerate(zip(extents, (4, 7), strict=True)):
        rows, cols = sd.grid_shape(extent)
        cells = torch.stack([torch.arange(count) % rows, torch.arange(count) % cols], dim=1)
        target = torch.rand(count, rows * cols, generator=generator(seed), dtype=dtype) * 2 - 1
        structures.append(sd.SamStructure(target, cells, extent))
    return features, structures, sizes, padded


def test_loss_against_a_hand_written_reference():
    features, structures, sizes, padded = batch(torch.float64)
    terms = []
    for feature, structure, size in zip(features, structures, sizes, strict=True):
        grid = sd.resize_to_grid(feature, size, padded, structure.extent)
        for query, (row, col) in enumerate(structure.cells.tolist()):
            for cell in range(structure.similarity.shape[1]):
                r, c = divmod(cell, grid.shape[2])
                d = (cosine(grid[:, row, col], grid[:, r, c]) - structure.similarity[query, cell]).abs().item()
                terms.append(0.5 * d * d if d < 1 else d - 0.5)
    loss = sd.structural_distillation_loss(features, structures, sizes, padded)
    assert len(terms) == 4 * 30 + 7 * 24
    assert loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-6)


def test_loss_is_zero_when_the_student_has_sams_structure():
    features, structures, sizes, padded = batch()
    same = [
        sd.SamStructure(sd.student_similarity(f, s.cells, size, padded, s.extent), s.cells, s.extent)
        for f, s, size in zip(features, structures, sizes, strict=True)
    ]
    assert sd.structural_distillation_loss(features, same, sizes, padded).item() == pytest.approx(0, abs=1e-12)
    assert sd.structural_distillation_loss(features, structures, sizes, padded).item() > 0.01


def test_loss_without_queries_is_zero_and_differentiable():
    features = torch.full((1, 4, 6, 6), 6e4, dtype=torch.float16, requires_grad=True)
    nothing = [sd.SamStructure(torch.zeros(0, 16), torch.zeros(0, 2, dtype=torch.int64), (4.0, 4.0))]
    loss = sd.structural_distillation_loss(features, nothing, [(24, 24)], (24, 24))
    loss.backward()
    assert loss.item() == 0
    assert (features.grad == 0).all()


def test_gradient_is_right():
    features, structures, sizes, padded = batch(torch.float64)
    small = features[:, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: sd.structural_distillation_loss(f, structures, sizes, padded), (small,))


def test_gradient_reaches_the_student_only_and_is_finite_at_zero():
    features, structures, sizes, padded = batch()
    targets = [s.similarity.requires_grad_() for s in structures]
    features[0] = 0
    features.requires_grad_()
    sd.structural_distillation_loss(features, structures, sizes, padded).backward()
    assert features.grad.isfinite().all()
    assert features.grad[1].abs().sum() > 0
    assert all(target.grad is None for target in targets)
    assert (features.grad[1, :, :, 5:] == 0).all()  # 17 pixels wide at stride 4: columns from 5 on are padding


def test_autocast_changes_nothing():
    features, structures, sizes, padded = batch()
    plain = sd.structural_distillation_loss(features, structures, sizes, padded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = sd.structural_distillation_loss(features, structures, sizes, padded)
    assert cast.dtype == torch.float32
    assert torch.equal(plain, cast)


def test_sam_similarity_streams_and_equals_all_at_once():
    segmenter, extents, sizes = TokenSegmenter(), [(4.5, 6.0), (6.0, 2.0)], [(30, 40), (60, 20)]
    points = [sd.draw_query_points(size, None, 10, generator(7)) for size in sizes]
    streamed = sd.sam_similarity(segmenter, embedding_of(extents, sizes), points, chunk=3)
    assert segmenter.calls == [3, 3, 3, 1] * 2
    for structure, some, size, extent in zip(streamed, points, sizes, extents, strict=True):
        rows, cols = sd.grid_shape(extent)
        tokens = torch.stack([segmenter.tokens(p) for p in some])[:, :, :rows, :cols]
        cells = sd.points_to_cells(some, size, extent)
        torch.testing.assert_close(structure.similarity, sd.structural_similarity(tokens, cells).detach())
        assert torch.equal(structure.cells, cells)
        assert structure.extent == extent
        assert not structure.similarity.requires_grad
        own = structure.similarity[torch.arange(10), cells[:, 0] * cols + cells[:, 1]]
        torch.testing.assert_close(own, torch.ones(10), atol=1e-4, rtol=0)


def test_sam_similarity_of_no_points():
    segmenter = TokenSegmenter()
    structures = sd.sam_similarity(segmenter, embedding_of([(3.0, 5.0)], [(30, 50)]), [torch.zeros(0, 2)], chunk=4)
    assert structures[0].similarity.shape == (0, 15)
    assert segmenter.calls == []
