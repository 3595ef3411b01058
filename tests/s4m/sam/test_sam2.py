"""SAM 2 through transformers: equality with its own processor and forward, and folders in the hub's layout."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from s4m.sam import Prompts, build_segmenter, sam2
from s4m.sam.hub import _POSITION
from s4m.sam.sam2 import Sam2Segmenter

SIDE, WIDTH = 64, 32  # of the small model
PARTS = ("vision", "prompt_encoder", "mask_decoder")


@pytest.mark.parametrize("size", [(50, 90), (120, 30)])
@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_it_equals_transformers_own_forward(small_sam2, size, kind):
    model = small_sam2()
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    points = (torch.rand(3, 2, 2, generator=generator) * torch.tensor([size[1], size[0]])).round()
    labels = torch.tensor([[1, 1], [1, 0], [1, 1]])
    boxes = torch.tensor([[2.0, 3, 20, 25], [0, 0, 10, 29], [5, 5, 29, 28]])
    processor = transformers.Sam2Processor(
        transformers.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}), target_size=SIDE
    )
    asked = {
        "points": {"input_points": [points.tolist()], "input_labels": [labels.tolist()]},
        "boxes": {"input_boxes": [boxes.tolist()]},
    }[kind]
    segmenter, inputs = Sam2Segmenter("small", model), processor(images=image, return_tensors="pt", **asked)
    # Pillow's resizing and torchvision's differ by rounding: the numbers are compared on the same pixels.
    same = processor(images=segmenter.frame(size).resize_image(image), return_tensors="pt")["pixel_values"]
    assert (same - inputs["pixel_values"]).abs().max() < 0.04
    inputs["pixel_values"] = same
    prompts = {
        "points": Prompts(points, labels),
        "boxes": Prompts(points[:, :0], labels[:, :0], boxes),
    }[kind]
    embedding, sizes = segmenter.encode([image]), inputs.pop("original_sizes")
    answer = segmenter.decode(embedding, [prompts])[0]
    (low,) = segmenter.decode(embedding, [prompts], enlarge=False)
    with torch.no_grad():
        expected = model(**inputs, multimask_output=True)
    theirs = expected.pred_masks.reshape(3, -1, 16, 16)
    torch.testing.assert_close(answer.quality, expected.iou_scores.reshape(3, -1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(low.masks, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    enlarged = processor.post_process_masks([theirs], sizes, binarize=False)[0]
    assert answer.masks.shape == enlarged.shape == (3, 3, *size)
    # Ours are enlarged to the input first, as segment-anything's are.
    assert ((answer.masks > 0) != (enlarged > 0)).float().mean() < 0.02


def test_every_feature_that_the_decoder_sees_is_in_the_embedding(small_sam2):
    segmenter = Sam2Segmenter("small", small_sam2())
    image = torch.randint(0, 256, (3, 40, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    embedding = segmenter.encode([image])
    assert embedding.features.shape == (1, 4 * WIDTH, 4, 4) and embedding.valid == [(4, 4)]
    pixels = embedding.frames[0].resize_image(image).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    fine, middle, coarse = segmenter.network.get_image_embeddings(((pixels - mean) / std)[None])
    ours, (our_fine, our_middle) = segmenter._unfold(embedding.features)
    for one, other in ((ours, coarse), (our_middle, middle), (our_fine, fine)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.fixture
def hub(small_sam2, tmp_path, monkeypatch):
    """Function (video model's options) -> folder in the layout of the hub; small models are called tiny."""
    monkeypatch.setitem(sam2._SIZES, "tiny", (8, (1, 1, 2, 1)))

    def write(**options):
        torch.manual_seed(0)
        small = {"memory_attention_num_layers": 1, "memory_fuser_num_layers": 1, "image_size": SIDE}
        small |= {"memory_attention_hidden_size": WIDTH, "memory_encoder_hidden_size": WIDTH}
        small |= {"memory_encoder_output_channels": 8, "memory_attention_feed_forward_hidden_size": 16}
        small |= {
            "memory_fuser_embed_dim": WIDTH,
            "memory_fuser_intermediate_dim": 16,
            "mask_downsampler_embed_dim": 32,
        }
        config = small_sam2().config
        parts = {f"{part}_config": getattr(config, f"{part}_config").to_dict() for part in PARTS}
        config = transformers.Sam2VideoConfig(**parts, **small, **options)
        model = transformers.Sam2VideoModel(config)
        model.save_pretrained(tmp_path / "hub")
        return tmp_path / "hub", model

    return write


@pytest.mark.parametrize("name, is_new", [("sam2_hiera_tiny", False), ("sam2.1_hiera_tiny", True)])
def test_a_folder_of_the_hub_loads(hub, name, is_new):
    folder, model = hub(enable_occlusion_spatial_embedding=is_new)
    segmenter = build_segmenter(name, str(folder), "cpu", 3)
    assert segmenter.name == name and segmenter.side == SIDE and segmenter.chunk == 3
    for key, value in segmenter.network.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    other = {"sam2_hiera_tiny": "sam2.1_hiera_tiny"}.get(name, "sam2_hiera_tiny")
    with pytest.raises(ValueError, match=rf"'{folder}' is not a checkpoint of {other}; it seems to be one of {name}\."):
        build_segmenter(other, str(folder))
    with pytest.raises(ValueError, match=rf"not a checkpoint of sam2.1_hiera_large; it seems to be one of {name}\."):
        build_segmenter("sam2.1_hiera_large", str(folder))


def test_an_image_model_tells_no_version_and_one_position_is_enough(small_sam2, tmp_path, monkeypatch):
    monkeypatch.setitem(sam2._SIZES, "tiny", (8, (1, 1, 2, 1)))
    model = small_sam2()
    model.half().save_pretrained(tmp_path)
    for absent, name in zip(_POSITION, ("sam2_hiera_tiny", "sam2.1_hiera_tiny"), strict=True):
        state = {key: value for key, value in model.state_dict().items() if key != absent}
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        network = build_segmenter(name, str(tmp_path)).network
        for key, value in network.state_dict().items():
            assert value.dtype == torch.float32 and torch.equal(value, model.state_dict()[key].float()), key


def test_wrong_folders_are_one_sentence(hub, tmp_path):
    key, at = "S4M.SAM.CHECKPOINT", "https://huggingface.co/facebook/sam2.1-hiera-base-plus"
    for folder in ("", str(tmp_path / "absent")):
        with pytest.raises(FileNotFoundError, match=rf"{key} names the folder '{folder}'.*config.json.*{at}"):
            build_segmenter("sam2.1_hiera_base_plus", folder)
    folder, _ = hub()
    whole = load_file(folder / "model.safetensors")
    state = dict(whole)
    absent = "mask_decoder.iou_token.weight"
    del state[absent]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{key}: '{folder}' is not a checkpoint of sam2.1_hiera_tiny: '{absent}'"):
        build_segmenter("sam2.1_hiera_tiny", str(folder))
    save_file({**whole, absent: torch.zeros(1, 7)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="other names or shapes"):
        build_segmenter("sam2.1_hiera_tiny", str(folder))
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="other names or shapes"):
        build_segmenter("sam2.1_hiera_tiny", str(folder))
    for content in ("{}", "no json", json.dumps({"model_type": "bert"})):
        (folder / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config.json is not that of a (SAM 2|network)"):
            build_segmenter("sam2.1_hiera_tiny", str(folder))
    shutil.rmtree(folder)


def test_sizes_tell_the_published_models_apart():
    facts = list(sam2._SIZES.values())
    assert len(set(facts)) == len(facts) == 4
    default = transformers.Sam2Config().vision_config.backbone_config
    assert sam2._SIZES["tiny"] == (default.hidden_size, tuple(default.blocks_per_stage))
