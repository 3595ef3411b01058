"""The interface of promptable segmenters, on the tiny SAM that the package carries."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from s4m.sam import Prompts, build_segmenter


@pytest.fixture(scope="module")
def tiny():
    return build_segmenter("tiny")


def square_image(height: int, width: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    """A red square, xyxy, on a blue background with a little noise."""
    noise = np.random.default_rng(3).normal(0, 6, (3, height, width))
    image = np.array([60.0, 90, 170])[:, None, None] + noise
    x0, y0, x1, y1 = box
    image[:, y0:y1, x0:x1] = np.array([200.0, 70, 60])[:, None, None] + noise[:, y0:y1, x0:x1]
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8))


def points(*where: tuple[float, float]) -> Prompts:
    """One single-point prompt for each x, y."""
    return Prompts(torch.tensor(where, dtype=torch.float32).reshape(-1, 1, 2), torch.ones(len(where), 1))


def iou(mask: torch.Tensor, box: tuple[int, int, int, int]) -> float:
    truth = torch.zeros_like(mask)
    truth[box[1] : box[3], box[0] : box[2]] = True
    return ((mask & truth).sum() / (mask | truth).sum()).item()


SCENES = {
    "square image": (128, 128, (70, 20, 110, 60)),
    "wide": (96, 160, (100, 50, 140, 90)),
    "narrow": (130, 70, (10, 80, 50, 120)),
    "large": (300, 500, (330, 150, 450, 270)),
    "small": (40, 64, (36, 8, 56, 28)),
}


@pytest.mark.parametrize("height, width, box", SCENES.values(), ids=SCENES)
@pytest.mark.parametrize("by", ["point", "box"])
def test_a_prompt_on_a_square_gives_the_square(tiny, height, width, box, by):
    image = square_image(height, width, box)
    if by == "point":
        prompts = points(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    else:
        prompts = Prompts(torch.zeros(1, 0, 2), torch.zeros(1, 0), boxes=torch.tensor([box], dtype=torch.float32))
    answer = tiny.decode(tiny.encode([image]), [prompts], best=True)[0]
    assert answer.masks.shape == (1, 1, height, width)
    assert iou(answer.masks[0, 0] > 0, box) > 0.8


def test_a_batch_of_mixed_sizes_and_counts_equals_the_images_one_by_one(tiny):
    images = [square_image(*scene) for scene in SCENES.values()]
    prompts = [
        points((80, 30), (10, 100), (90, 40)),
        points(),
        points((20, 90)),
        Prompts(torch.full((2, 3, 2), 200.0), torch.ones(2, 3), boxes=torch.tensor([[330.0, 150, 450, 270]] * 2)),
        points((40, 12), (2, 2)),
    ]
    together = tiny.decode(tiny.encode(images), prompts)
    for image, some, answer in zip(images, prompts, together, strict=True):
        alone = tiny.decode(tiny.encode([image]), [some])[0]
        assert answer.masks.shape == (len(some), 3, *image.shape[1:])
        torch.testing.assert_close(answer.masks, alone.masks, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(answer.quality, alone.quality, rtol=1e-3, atol=1e-3)


def test_chunks_change_nothing(tiny):
    images = [square_image(*SCENES["wide"]), square_image(*SCENES["narrow"])]
    prompts = [points((110, 60), (5, 5), (120, 80)), points((20, 90), (60, 10))]
    embedding = tiny.encode(images)
    whole = tiny.decode(embedding, prompts)
    chunked = build_segmenter("tiny", chunk=2).decode(embedding, prompts)
    for one, other in zip(whole, chunked, strict=True):
        torch.testing.assert_close(one.masks, other.masks, rtol=1e-3, atol=1e-2)


def test_decoder_calls(tiny, monkeypatch):
    calls = []
    monkeypatch.setattr(tiny, "answer", lambda *args, _ask=tiny.answer: calls.append(len(args[1])) or _ask(*args))
    embedding = tiny.encode([square_image(*SCENES["wide"])] * 3)
    tiny.decode(embedding, [points((1, 1), (2, 2)), points(), points((3, 3))])
    assert calls == [3]
    calls.clear()
    answers = tiny.decode(embedding, [points()] * 3)
    assert calls == []
    assert [tuple(answer.masks.shape) for answer in answers] == [(0, 3, 96, 160)] * 3
    assert answers[0].quality.shape == (0, 3)
    best = tiny.decode(embedding, [points()] * 3, best=True)
    assert best[0].masks.shape == (0, 1, 96, 160)


def test_best_is_the_mask_of_highest_predicted_iou(tiny):
    embedding = tiny.encode([square_image(*SCENES["wide"])])
    prompts = [points((110, 60), (5, 5))]
    every, best = tiny.decode(embedding, prompts)[0], tiny.decode(embedding, prompts, best=True)[0]
    quality, index = every.quality.max(dim=1)
    torch.testing.assert_close(best.quality[:, 0], quality)
    torch.testing.assert_close(best.masks[:, 0], every.masks[torch.arange(2), index])


def test_negative_points_as_prompts(tiny):
    height, width, box = SCENES["wide"]
    embedding = tiny.encode([square_image(height, width, box)])
    both = Prompts(torch.tensor([[[120.0, 70], [20, 20]]]), torch.tensor([[1, 0]]))
    mask = tiny.decode(embedding, [both], best=True)[0].masks[0, 0] > 0
    assert mask[70, 120] and not mask[20, 20]


def test_streamed_tokens_are_those_of_decode(tiny, decoder_tokens):
    images = [square_image(*SCENES["wide"]), square_image(*SCENES["narrow"])]
    prompts = [points((110, 60), (5, 5), (120, 80)), points()]
    embedding = tiny.encode(images)
    whole = decoder_tokens(tiny, embedding, prompts)
    assert whole[0].shape == (3, *embedding.features.shape[1:])
    parts = list(tiny.iter_tokens(embedding, prompts, chunk=2))
    assert [(index, rows) for index, rows, _ in parts] == [(0, slice(0, 2)), (0, slice(2, 3))]
    for _, rows, tokens in parts:
        torch.testing.assert_close(tokens, whole[0][rows], rtol=1e-3, atol=1e-4)


def test_valid_cells_follow_the_aspect(tiny):
    embedding = tiny.encode([square_image(*SCENES[name]) for name in ("square image", "wide", "narrow")])
    grid = embedding.features.shape[-1]
    (full, wide, narrow) = embedding.valid
    assert full == (grid, grid)
    assert wide[1] == grid and wide[0] == pytest.approx(grid * 96 / 160, abs=0.1)
    assert narrow[0] == grid and math.ceil(narrow[1]) == math.ceil(grid * 70 / 130)


def test_embeddings_are_taken_apart(tiny):
    embedding = tiny.encode([square_image(*SCENES[name]) for name in ("square image", "wide", "narrow")])
    assert len(embedding) == 3
    part = embedding[[2, 0]]
    assert part.image_sizes == [(130, 70), (128, 128)]
    assert torch.equal(part.features[1], embedding.features[0])
    assert embedding[[1]].image_sizes == [(96, 160)] and len(embedding[[]]) == 0


def test_it_is_frozen_and_in_no_module(tiny):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.segmenter = tiny

    model = Model()
    assert not isinstance(tiny, nn.Module)
    assert not list(model.parameters()) and not model.state_dict() and not list(model.children())
    assert not tiny.network.training and not any(p.requires_grad for p in tiny.network.parameters())
    embedding = tiny.encode([square_image(*SCENES["wide"])])
    answer = tiny.decode(embedding, [points((110, 60))])[0]
    ((_, _, tokens),) = tiny.iter_tokens(embedding, [points((110, 60))])
    assert not (embedding.features.requires_grad or answer.masks.requires_grad or tokens.requires_grad)
    weight = torch.ones((), requires_grad=True)
    (weight * tokens.mean() + weight * answer.masks.mean()).backward()
    assert weight.grad is not None


@pytest.mark.parametrize(("encode_batch", "calls"), [(0, [3]), (1, [1, 1, 1]), (2, [2, 1])])
def test_images_an_encoder_call(tiny, monkeypatch, encode_batch, calls):
    segmenter, seen = build_segmenter("tiny", encode_batch=encode_batch), []
    embed = segmenter.embed
    monkeypatch.setattr(segmenter, "embed", lambda images: seen.append(len(images)) or embed(images))
    images = [square_image(*SCENES[name]) for name in ("square image", "wide", "large")]
    embedding = segmenter.encode(images)
    assert seen == calls
    torch.testing.assert_close(embedding.features, tiny.encode(images).features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "gib", "expected"), [("vit_h", 24, 1), ("vit_l", 24, 1), ("vit_h", 79, 4), ("vit_b", 24, 4)]
)
def test_images_an_encoder_call_on_a_gpu(monkeypatch, name, gib, expected):
    segmenter, seen = build_segmenter("tiny"), []
    segmenter.name, segmenter.side = name, 1024
    memory = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: seen.append(str(device)) or memory)
    segmenter.device = torch.device("cuda:0")
    assert segmenter._default_batch() == expected
    assert seen == ["cuda:0"]


def test_autocast_around_it_changes_nothing(tiny):
    image, prompts = square_image(*SCENES["wide"]), [points((110, 60))]
    plain = tiny.decode(tiny.encode([image]), prompts)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = tiny.decode(tiny.encode([image]), prompts)[0]
    assert cast.masks.dtype == torch.float32
    torch.testing.assert_close(cast.masks, plain.masks, rtol=1e-3, atol=1e-2)


def test_fingerprint_follows_the_weights(tiny):
    other = build_segmenter("tiny")
    assert other.fingerprint == tiny.fingerprint
    changed = build_segmenter("tiny")
    changed.network.prompt_encoder.no_mask_embed.weight.data += 1
    assert changed.fingerprint != tiny.fingerprint


def test_bad_input_is_refused(tiny):
    image = square_image(*SCENES["wide"])
    with pytest.raises(ValueError, match=r"uint8 images \(3, H, W\)"):
        tiny.encode([image.float()])
    with pytest.raises(ValueError, match="one Prompts an image: 2 for 1"):
        tiny.decode(tiny.encode([image]), [points(), points()])
    with pytest.raises(ValueError, match=r"labels \(N, P\)"):
        Prompts(torch.zeros(2, 3, 2), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"boxes must be \(2, 4\)"):
        Prompts(torch.zeros(2, 3, 2), torch.ones(2, 3), boxes=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="need boxes"):
        Prompts(torch.zeros(2, 0, 2), torch.ones(2, 0))
    with pytest.raises(ValueError, match="S4M.SAM.NAME is 'vit_x'.*tiny, vit_b, vit_h, vit_l"):
        build_segmenter("vit_x")
    with pytest.raises(ValueError, match="S4M.SAM.ENCODE_BATCH must be 0 or more, but is -1"):
        build_segmenter("tiny", encode_batch=-1)
