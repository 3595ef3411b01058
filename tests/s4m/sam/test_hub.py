"""SAM 3 and SAM-HQ of transformers: equality with their own forward, and folders in the hub's layout."""

import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from s4m.sam import Prompts, build_segmenter, hub, sam2
from s4m.sam.sam3 import Sam3Segmenter
from s4m.sam.sam_hq import SamHqSegmenter

POINTS = torch.tensor([[[10.0, 12], [30, 40]], [[50, 20], [3, 3]]])
LABELS = torch.tensor([[1, 0], [1, 1]])


def square(side):
    """An image that fills the input, so that nothing is resized."""
    return torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["sam3", "hq"])
def test_it_equals_transformers_own_forward(small_sam3, small_sam_hq, kind):
    model = {"sam3": small_sam3, "hq": small_sam_hq}[kind]()
    segmenter = {"sam3": Sam3Segmenter, "hq": SamHqSegmenter}[kind](kind, model)
    processors = {"sam3": transformers.Sam3ImageProcessor, "hq": transformers.SamImageProcessor}
    side = segmenter.side
    size = {"size": {"height": side, "width": side}} if kind == "sam3" else {"size": {"longest_edge": side}}
    if kind == "hq":
        size["pad_size"] = {"height": side, "width": side}
    pixels = processors[kind](**size)(square(side), return_tensors="pt")["pixel_values"]
    embedding = segmenter.encode([square(side)])
    (answer,) = segmenter.decode(embedding, [Prompts(POINTS, LABELS)], enlarge=False)
    asked = {"input_points": POINTS[None], "input_labels": LABELS[None]}
    with torch.no_grad():
        expected = model(pixel_values=pixels, **asked, multimask_output=True)
    torch.testing.assert_close(answer.quality, expected.iou_scores[0], rtol=1e-3, atol=1e-4)
    largest = float(expected.pred_masks.abs().max())
    torch.testing.assert_close(answer.masks, expected.pred_masks[0], rtol=1e-3, atol=1e-3 * largest)


def test_sam3_loads_from_a_tracker_and_from_the_published_layout(small_sam3, small_sam3_parts, tmp_path):
    model = small_sam3()
    model.save_pretrained(tmp_path / "tracker")
    tracker = transformers.Sam3TrackerVideoConfig(**small_sam3_parts(), image_size=56)
    config = transformers.Sam3VideoConfig(tracker_config=tracker.to_dict())
    config.save_pretrained(tmp_path / "video")
    published = {
        "detector_model.text_encoder.weight": torch.zeros(1),
        "tracker_model.memory_encoder.bias": torch.ones(1),
    }
    for key, value in model.state_dict().items():
        prefix = "tracker_model."
        for ours, theirs in (
            ("vision_encoder.backbone.", "detector_model."),
            ("vision_encoder.neck.", "tracker_neck."),
        ):
            prefix = theirs if key.startswith(ours) else prefix
        name = key.removeprefix("vision_encoder.neck.") if prefix == "tracker_neck." else key
        published[prefix + name] = value.clone()
    save_file(published, tmp_path / "video" / "model.safetensors", metadata={"format": "pt"})
    for folder in ("tracker", "video"):
        segmenter = build_segmenter("facebook/sam3", str(tmp_path / folder), "cpu", 3)
        assert segmenter.name == "sam3" and segmenter.side == 56 and segmenter.chunk == 3
        for key, value in segmenter.network.state_dict().items():
            assert torch.equal(value, model.state_dict()[key]), key


def test_sam_hq_loads_from_its_folder(small_sam_hq, tmp_path):
    model = small_sam_hq()
    model.save_pretrained(tmp_path)
    segmenter = build_segmenter("sam_hq", str(tmp_path))
    for key, value in segmenter.network.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    with pytest.raises(
        ValueError, match="not a checkpoint of sam_hq_vit_base: its encoder has 48 channels in place of 768"
    ):
        build_segmenter("syscv-community/sam-hq-vit-base", str(tmp_path))


def test_sam2_is_any_sam2_and_names_of_the_hub_are_those_of_segmenters(small_sam2, tmp_path, monkeypatch):
    monkeypatch.setitem(sam2._SIZES, "tiny", (8, (1, 1, 2, 1)))
    small_sam2().save_pretrained(tmp_path)
    assert build_segmenter("sam2", str(tmp_path)).name == "sam2"
    assert build_segmenter("facebook/sam2.1-hiera-tiny", str(tmp_path)).name == "sam2.1_hiera_tiny"
    with pytest.raises(ValueError, match="S4M.SAM.NAME is 'facebook/sam9'"):
        build_segmenter("facebook/sam9", str(tmp_path))


@pytest.mark.parametrize("name", ["facebook/sam3", "sam_hq"])
def test_wrong_folders_are_one_sentence(small_sam3, small_sam_hq, tmp_path, name):
    with pytest.raises(FileNotFoundError, match="S4M.SAM.CHECKPOINT names the folder '', which holds no 'config.json'"):
        build_segmenter(name)
    model = small_sam_hq() if name == "sam_hq" else small_sam3()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[next(key for key in state if key.endswith("mask_decoder.iou_token.weight"))]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="'mask_decoder.iou_token.weight' is missing"):
        build_segmenter(name, str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"is not a checkpoint of sam(3|_hq): its"):
        build_segmenter(name, str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="its config.json is that of a bert"):
        build_segmenter(name, str(tmp_path))


def test_an_old_transformers_is_told(monkeypatch, tmp_path):
    old = SimpleNamespace(__version__="4.50.0")
    monkeypatch.setattr(hub, "require_extra", lambda module, extra: old)
    for name in ("sam2", "sam3", "sam_hq"):
        with pytest.raises(ImportError, match=f"{name} needs transformers 5 or newer, but 4.50.0 is installed"):
            build_segmenter(name, str(tmp_path))
