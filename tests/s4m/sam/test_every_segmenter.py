"""What holds for each kind of segmenter: shapes, coordinate frames, batches, the cache, and that it is frozen.

The tiny SAM is trained. The others have random weights: their masks say nothing, so that coordinates are read off what
they follow from, the encoder's input and the positional encoding of the prompts.
"""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from s4m.losses.structural_distillation import sam_similarity
from s4m.pseudo_labels.refinement import refine
from s4m.sam import SEGMENTERS, Prompts, build_segmenter
from s4m.sam.embedding_cache import EmbeddingCache
from s4m.sam.hub import HubSegmenter
from s4m.sam.mobile_sam import build_mobile_sam
from s4m.sam.sam2 import Sam2Segmenter
from s4m.sam.sam3 import Sam3Segmenter
from s4m.sam.sam_hq import SamHqSegmenter
from s4m.sam.segment_anything import SamSegmenter

# The kinds, and a name of each.
KINDS = {
    "tiny": "tiny",
    "vit": "vit_b",
    "mobile": "mobile_sam",
    "sam2": "sam2.1_hiera_tiny",
    "sam3": "sam3",
    "hq": "sam_hq",
}
RANDOM = [kind for kind in KINDS if kind != "tiny"]
SIZES = {"square": (64, 64), "wide": (48, 96), "narrow": (130, 50), "small": (20, 32)}


@pytest.fixture(scope="module")
def segmenters(small_sam, small_sam2, small_sam3, small_sam_hq):
    torch.manual_seed(0)
    mobile = build_mobile_sam(64)
    return {
        "tiny": build_segmenter("tiny"),
        "vit": SamSegmenter("vit_b", small_sam()),
        "mobile": SamSegmenter("mobile_sam", mobile),
        "sam2": Sam2Segmenter("sam2.1_hiera_tiny", small_sam2()),
        "sam3": Sam3Segmenter("sam3", small_sam3()),
        "hq": SamHqSegmenter("sam_hq", small_sam_hq()),
    }


@pytest.fixture(params=list(KINDS))
def segmenter(segmenters, request):
    return segmenters[request.param]


@pytest.fixture(params=RANDOM)
def untrained(segmenters, request):
    return segmenters[request.param]


def noise(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *size), dtype=np.uint8))


def points(*where: tuple[float, float]) -> Prompts:
    """One single-point prompt for each x, y."""
    return Prompts(torch.tensor(where, dtype=torch.float32).reshape(-1, 1, 2), torch.ones(len(where), 1))


def mixed():
    """Images of every size and prompts of every kind, one image without any."""
    height, width = SIZES["narrow"]
    box = torch.tensor([[10.0, 20, 40, 100], [0, 0, 49, 129]])
    prompts = [
        points((10, 10), (50, 30), (63, 63)),
        points(),
        Prompts(torch.tensor([[[20.0, 50], [30, 60]]] * 2), torch.tensor([[1, 0]] * 2), boxes=box),
        Prompts(torch.zeros(1, 0, 2), torch.zeros(1, 0), boxes=torch.tensor([[8.0, 4, 20, 12]])),
    ]
    return [noise(size, seed) for seed, size in enumerate(SIZES.values())], prompts


def close(one, other, rtol=1e-3, atol=2e-3):
    largest = float(other.masks.abs().amax()) if len(other.masks) else 1.0
    torch.testing.assert_close(one.masks, other.masks, rtol=rtol, atol=atol * max(1.0, largest))
    torch.testing.assert_close(one.quality, other.quality, rtol=rtol, atol=atol)


def test_every_kind_that_is_registered_is_here():
    assert {SEGMENTERS[name] for name in KINDS.values()} == set(SEGMENTERS.values())


def test_shapes(segmenter):
    images, prompts = mixed()
    embedding = segmenter.encode(images)
    assert embedding.image_sizes == list(SIZES.values())
    rows, columns = embedding.features.shape[2:]
    for best in (True, False):
        answers = segmenter.decode(embedding, prompts, best=best)
        for answer, some, size in zip(answers, prompts, SIZES.values(), strict=True):
            count = 1 if best else 3
            assert answer.masks.shape == (len(some), count, *size) and answer.masks.dtype == torch.float32
            assert answer.quality.shape == (len(some), count)
            assert answer.masks.isfinite().all()
    assert all(0 < height <= rows and 0 < width <= columns for height, width in embedding.valid)
    for index, chunk, tokens in segmenter.iter_tokens(embedding, prompts, chunk=8):
        assert chunk == slice(0, len(prompts[index])) and tokens.isfinite().all()
        assert tokens.shape == (len(prompts[index]), *segmenter.token_shape(embedding.features))
        assert tokens.shape[2:] == (rows, columns)


def input_scale(segmenter, size: tuple[int, int]) -> tuple[float, float]:
    """Pixels of the input for a pixel of the image, by x and y: SAM keeps the aspect and pads, SAM 2 and 3 stretch."""
    height, width = size
    if isinstance(segmenter, Sam2Segmenter):
        return segmenter.side / width, segmenter.side / height
    return (segmenter.side / max(size),) * 2


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_encoder_sees_the_image_where_prompts_point_at_it(segmenter, size):
    network = segmenter.network
    encoder = network.vision_encoder if isinstance(segmenter, HubSegmenter) else network.image_encoder
    seen = []
    handle = encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    height, width = size
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x0, y0, x1, y1 = width // 2, height // 4, width // 2 + width // 4, height // 4 + height // 2
    image[:, y0:y1, x0:x1] = 255
    try:
        (frame,) = segmenter.encode([image]).frames
    finally:
        handle.remove()
    given = seen[0][0, 1]
    assert given.shape == (segmenter.side, segmenter.side)
    bright = given > (given.min() + given.max()) / 2
    rows, columns = torch.nonzero(bright, as_tuple=True)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    sx, sy = input_scale(segmenter, size)
    torch.testing.assert_close(
        torch.stack(found).float(), torch.tensor([x0 * sx, y0 * sy, x1 * sx, y1 * sy]), rtol=0, atol=1.5
    )
    assert frame.input_size == (round(height * sy), round(width * sx))
    assert (given[frame.input_size[0] :] == 0).all() and (given[:, frame.input_size[1] :] == 0).all()


class Locator:
    """In place of the decoder: a mask of where the network's positional encoding says that the prompt is."""

    def __init__(self, segmenter):
        self.segmenter, network = segmenter, segmenter.network
        where = (torch.arange(segmenter.side) + 0.5) / segmenter.side
        grid = torch.stack(torch.meshgrid(where, where, indexing="xy"), dim=-1)
        if isinstance(segmenter, HubSegmenter):
            kinds = network.prompt_encoder.point_embed
            single = isinstance(kinds, nn.Embedding)
            self.kinds = kinds.weight if single else torch.cat([part.weight for part in kinds])
            self.position = network.shared_image_embedding(grid)
        else:
            self.kinds = torch.cat([part.weight for part in network.prompt_encoder.point_embeddings])
            self.position = network.prompt_encoder.pe_layer._pe_encoding(grid)

    def __call__(self, features, prompts):
        sparse, _ = self.segmenter._embed_prompts(prompts)
        sparse = sparse.reshape(len(prompts), -1, sparse.shape[-1])
        # Of a point its own encoding; of a box those of its corners.
        wanted = [sparse[:, 0] - self.kinds[2], sparse[:, 1] - self.kinds[3]] if prompts.boxes is not None else None
        wanted = wanted or [sparse[:, 0] - self.kinds[1]]
        likeness = torch.stack([torch.einsum("nc,hwc->nhw", one, self.position) for one in wanted]).amax(0)
        masks = likeness[:, None] / (self.position.shape[-1] / 2) - 0.8
        return masks, torch.ones(len(prompts), 1)


@pytest.fixture
def locating(untrained, monkeypatch):
    monkeypatch.setattr(untrained, "answer", Locator(untrained))
    return untrained


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_point_gives_a_mask_that_holds_it(locating, size):
    height, width = size
    where = [(width // 2, height // 3), (3, 4), (width - 1, height - 1), (0, height - 1)]
    answer = locating.decode(locating.encode([noise(size)]), [points(*where)])[0]
    one_input_pixel = 1 / np.array(input_scale(locating, size))
    for (x, y), (mask,) in zip(where, answer.masks, strict=True):
        assert mask[y, x] > 0, (x, y)
        row, column = divmod(int(mask.argmax()), width)
        assert abs(column - x) <= 1 + one_input_pixel[0] and abs(row - y) <= 1 + one_input_pixel[1]
        assert (mask > 0).float().mean() < 0.3


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_box_gives_its_corners(locating, size):
    height, width = size
    corners = [(2, 3), (width - 5, height - 4)]
    box = torch.tensor([[*corners[0], *corners[1]]], dtype=torch.float32)
    prompts = Prompts(torch.zeros(1, 0, 2), torch.zeros(1, 0), boxes=box)
    (mask,) = locating.decode(locating.encode([noise(size)]), [prompts])[0].masks[0]
    for x, y in corners:
        assert mask[y, x] > 0 and mask[y, x] > mask[y, width - 1 - x]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_point_in_a_square_gives_the_square(segmenters, size):
    height, width = size
    image = noise(size) // 8 + torch.tensor([40, 80, 160], dtype=torch.uint8)[:, None, None]
    x, y, side = width // 2, height // 4, min(size) // 2
    image[0, y : y + side, x : x + side] += 140
    image[2, y : y + side, x : x + side] -= 120
    tiny = segmenters["tiny"]
    prompts = [points((x + side // 2, y + side // 2))]
    mask = tiny.decode(tiny.encode([image]), prompts, best=True)[0].masks[0, 0] > 0
    truth = torch.zeros(size, dtype=torch.bool)
    truth[y : y + side, x : x + side] = True
    assert mask[y + side // 2, x + side // 2] and (mask & truth).sum() / (mask | truth).sum() > 0.7


def test_answers_depend_on_image_point_and_label(segmenter):
    first, second = segmenter.encode([noise((48, 96), 1), noise((48, 96), 2)]).features
    assert not torch.allclose(first, second, atol=1e-3)
    embedding = segmenter.encode([noise((48, 96), 1)] * 2)
    prompts = Prompts(torch.tensor([[[20.0, 10]], [[80.0, 40]], [[20.0, 10]]]), torch.tensor([[1], [1], [0]]))
    masks = segmenter.decode(embedding, [prompts, prompts])[0].masks
    for other in (masks[1], masks[2]):
        assert (masks[0] - other).abs().max() > 1e-2 * masks.abs().max()


def test_a_batch_equals_its_images_one_by_one(segmenter):
    images, prompts = mixed()
    together = segmenter.decode(segmenter.encode(images), prompts)
    for image, some, answer in zip(images, prompts, together, strict=True):
        close(answer, segmenter.decode(segmenter.encode([image]), [some])[0])


def test_chunks_and_streamed_tokens_change_nothing(segmenter, decoder_tokens, monkeypatch):
    images, prompts = mixed()
    embedding = segmenter.encode(images)
    whole, tokens_of = segmenter.decode(embedding, prompts), decoder_tokens(segmenter, embedding, prompts)
    monkeypatch.setattr(segmenter, "chunk", 2)
    for one, other in zip(segmenter.decode(embedding, prompts), whole, strict=True):
        close(one, other)
    streamed = [(index, rows) for index, rows, _ in segmenter.iter_tokens(embedding, prompts)]
    assert streamed == [(0, slice(0, 2)), (0, slice(2, 3)), (2, slice(0, 2)), (3, slice(0, 1))]
    for index, rows, tokens in segmenter.iter_tokens(embedding, prompts):
        torch.testing.assert_close(tokens, tokens_of[index][rows], rtol=1e-3, atol=5e-3)


def test_the_embedding_cache_equals_no_cache(segmenter, tmp_path):
    names = []
    for name, size in SIZES.items():
        names.append(str(tmp_path / f"{name}.png"))
        Image.fromarray(noise(size).permute(1, 2, 0).numpy()).save(names[-1])
    prompts = [points((5, 5), (15, 10))] * len(names)
    plain = segmenter.encode([noise(size) for size in SIZES.values()])
    expected = segmenter.decode(plain, prompts)
    for turn in range(2):
        cache = EmbeddingCache(tmp_path / "cache", segmenter, 1.0)
        cached = cache.encode_files(names, lambda name: noise(SIZES[name.split("/")[-1][:-4]]))
        assert (cache.hits, cache.misses) == ((0, 4), (4, 0))[turn]
        assert cached.frames == plain.frames and cached.features.dtype == torch.float32
        torch.testing.assert_close(cached.features, plain.features.half().float(), rtol=2e-3, atol=1e-4)
        for one, other in zip(segmenter.decode(cached, prompts), expected, strict=True):
            close(one, other, rtol=2e-2, atol=2e-2)


def test_it_is_frozen(segmenter):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.segmenter = segmenter

    model, weights = Model(), {key: value.clone() for key, value in segmenter.network.state_dict().items()}
    assert not model.state_dict() and not list(model.parameters())
    model.train()
    assert not any(module.training for module in segmenter.network.modules())
    assert not any(parameter.requires_grad for parameter in segmenter.network.parameters())
    images, prompts = mixed()
    embedding = segmenter.encode(images)
    answers = segmenter.decode(embedding, prompts)
    tokens = [part for _, _, part in segmenter.iter_tokens(embedding, prompts)]
    kept = [embedding.features, *tokens, *(part for a in answers for part in (a.masks, a.quality))]
    assert not any(value.requires_grad for value in kept)
    for key, value in segmenter.network.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_the_steps_of_the_method_run_on_it(segmenter):
    size = SIZES["wide"]
    embedding = segmenter.encode([noise(size)])
    queries = torch.tensor([[5.0, 5], [90, 40]])
    structure = sam_similarity(segmenter, embedding, [queries], 0)[0]
    rows, columns = embedding.valid[0]
    assert structure.similarity.shape == (2, math.ceil(rows) * math.ceil(columns))
    cells = structure.cells[:, 0] * math.ceil(columns) + structure.cells[:, 1]
    own = structure.similarity[torch.arange(2), cells]
    torch.testing.assert_close(own, torch.ones(2), rtol=1e-4, atol=1e-4)
    soft = torch.zeros(1, *size)
    soft[:, 10:30, 40:70] = 0.9
    found = Instances(size, soft_masks=soft, pred_masks=soft > 0.5, scores=torch.ones(1))
    found.pred_boxes, found.pred_classes = Boxes(torch.tensor([[40.0, 10, 70, 30]])), torch.zeros(1, dtype=torch.int64)
    generators = [torch.Generator().manual_seed(0)]
    (refined,) = refine([found], [noise(size)], segmenter, num_points=3, generators=generators)
    assert refined.pred_masks.shape == (1, *size) and refined.sam_quality.shape == (1,)
