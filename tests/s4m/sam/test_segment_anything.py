"""Segmenters of segment-anything's parts: equality with its own predictor, and checkpoints."""

from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from s4m.sam import Prompts, build_segmenter, segment_anything
from s4m.sam.segment_anything import SamSegmenter, guess_model
from s4m.sam.tiny import build_tiny_sam


@pytest.mark.parametrize("size", [(64, 64), (50, 90), (120, 30)])
def test_it_equals_segment_anythings_predictor(small_sam, size):
    sam = small_sam()
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    points = torch.rand(3, 2, 2, generator=generator) * torch.tensor([size[1], size[0]])
    labels = torch.tensor([[1, 1], [1, 0], [1, 1]])
    boxes = torch.tensor([[2.0, 3, 20, 25], [0, 0, 10, 29], [5, 5, 29, 28]])
    segmenter = SamSegmenter("small", sam)
    prompts = Prompts(points, labels, boxes)
    answer = segmenter.decode(segmenter.encode([image]), [prompts])[0]
    predictor = SamPredictor(sam)
    predictor.set_image(image.permute(1, 2, 0).numpy())
    for row in range(3):
        masks, quality, _ = predictor.predict(
            points[row].numpy(), labels[row].numpy(), boxes[row].numpy(), None, True, return_logits=True
        )
        np.testing.assert_allclose(answer.masks[row].numpy(), masks, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(answer.quality[row].numpy(), quality, rtol=1e-3, atol=1e-4)


def test_tokens_are_what_the_transformer_returns(small_sam, monkeypatch):
    segmenter = SamSegmenter("small", small_sam())
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    seen = []
    transformer = segmenter.network.mask_decoder.transformer
    forward = transformer.forward
    monkeypatch.setattr(transformer, "forward", lambda *args: seen.append(forward(*args)) or seen[-1])
    prompts = Prompts(torch.tensor([[[10.0, 10]], [[50.0, 20]]]), torch.ones(2, 1))
    embedding = segmenter.encode([image])
    segmenter.decode(embedding, [prompts])
    ((_, _, tokens),) = segmenter.iter_tokens(embedding, [prompts])
    torch.testing.assert_close(tokens.flatten(2).transpose(1, 2), seen[0][1])


def use_small_models(small_sam, monkeypatch):
    """Models small enough for a test in place of ViT-B and ViT-L, with layouts of their own."""
    for name, width in {"vit_b": 48, "vit_l": 64}.items():
        monkeypatch.setitem(sam_model_registry, name, partial(small_sam, width))
        monkeypatch.setitem(segment_anything.SEGMENTERS, name, segment_anything._build)
    monkeypatch.setattr(segment_anything, "_WIDTHS", {48: "vit_b", 64: "vit_l"})


def test_a_checkpoint_loads_strictly(small_sam, tmp_path, monkeypatch):
    use_small_models(small_sam, monkeypatch)
    state = {key: value + 1 for key, value in small_sam().state_dict().items()}
    torch.save(state, tmp_path / "b.pth")
    segmenter = build_segmenter("vit_b", str(tmp_path / "b.pth"), "cpu", 3)
    assert segmenter.name == "vit_b" and segmenter.chunk == 3
    for key, value in segmenter.network.state_dict().items():
        assert torch.equal(value, state[key])


def test_wrong_checkpoints_name_file_and_models(small_sam, tmp_path, monkeypatch):
    use_small_models(small_sam, monkeypatch)
    path = tmp_path / "some.pth"
    torch.save(small_sam(64).state_dict(), path)
    with pytest.raises(ValueError, match=rf"S4M.SAM.CHECKPOINT: '{path}' is not a checkpoint of vit_b.*one of vit_l"):
        build_segmenter("vit_b", str(path))
    torch.save(build_tiny_sam().state_dict(), path)
    with pytest.raises(ValueError, match=rf"'{path}' is not a checkpoint of vit_b.*one of tiny"):
        build_segmenter("vit_b", str(path))
    state = small_sam().state_dict()
    state.pop("mask_decoder.iou_token.weight")
    torch.save(state, path)
    with pytest.raises(ValueError, match=rf"'{path}' is not a checkpoint of vit_b: its weights have other names"):
        build_segmenter("vit_b", str(path))
    torch.save({"student.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not a checkpoint of tiny"):
        build_segmenter("tiny", str(path))


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_a_missing_checkpoint_says_where_it_is_published(name):
    with pytest.raises(FileNotFoundError, match="S4M.SAM.CHECKPOINT.*segment-anything#model-checkpoints"):
        build_segmenter(name, "")
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        build_segmenter(name, "nowhere.pth")


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="page.pth"):
        build_segmenter("vit_b", str(tmp_path / "page.pth"))


def test_vit_b_of_published_layout(tmp_path):
    path = tmp_path / "vit_b.pth"
    torch.save(sam_model_registry["vit_b"]().state_dict(), path)
    segmenter = build_segmenter("vit_b", str(path))
    assert segmenter.side == 1024
    features = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0))
    prompts = Prompts(torch.tensor([[[500.0, 300]]]), torch.ones(1, 1))
    masks, quality = segmenter.answer(features, prompts)
    tokens = segmenter.image_tokens(features, prompts)
    assert masks.shape == (1, 3, 256, 256) and quality.shape == (1, 3) and tokens.shape == features.shape
    assert guess_model(torch.load(path, weights_only=True, mmap=True)) == "vit_b"
    with pytest.raises(ValueError, match="not a checkpoint of vit_h; it seems to be one of vit_b"):
        build_segmenter("vit_h", str(path))
