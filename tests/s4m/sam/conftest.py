"""Small networks of each kind of segmenter, with random weights, that run in milliseconds."""

import pytest
import torch
import transformers
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer


def _spread(network: torch.nn.Module) -> None:
    """Draw weights that let image, prompt and position all weigh in on the answer."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            is_embedding = ("embed" in name or "token" in name) and "proj" not in name
            std = 1.0 if is_embedding else parameter[0].numel() ** -0.5
            torch.nn.init.normal_(parameter, std=std)
        else:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)


def make_sam(width: int = 48) -> Sam:
    """A SAM of segment-anything's classes that runs in milliseconds: 64 pixels, a 4 x 4 grid of 32 channels."""
    torch.manual_seed(0)
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=64, embed_dim=width, depth=2, num_heads=4, out_chans=32, use_rel_pos=True, window_size=2
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=32, transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=64)
        ),
    )
    _spread(sam)
    return sam


def make_sam2(side: int = 64, width: int = 32) -> transformers.Sam2Model:
    """A SAM 2 of transformers' classes that runs in milliseconds: 64 pixels, a 4 x 4 grid of 32 channels."""
    torch.manual_seed(0)
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[side, side],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        window_size_per_stage=[4, 4, 4, 2],
        global_attention_blocks=[3],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[side // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=width,
    )
    decoder = {"hidden_size": width, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": width}
    config = transformers.Sam2Config(
        vision_config=vision.to_dict(),
        prompt_encoder_config={"hidden_size": width, "image_size": side},
        mask_decoder_config=decoder,
    )
    model = transformers.Sam2Model(config)
    _spread(model)
    position = model.prompt_encoder.shared_embedding.positional_embedding
    model.shared_image_embedding.positional_embedding.copy_(position)
    return model.eval()


SAM3_SIDE = 56  # pixels; a 4 x 4 grid


def sam3_parts(width: int = 32) -> dict:
    """The configurations of the parts of a small SAM 3, by name."""
    backbone = transformers.Sam3ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SAM3_SIDE,
        window_size=2,
        global_attn_indexes=[1],
        pretrain_image_size=28,
    )
    sizes = [[SAM3_SIDE // 14 * scale] * 2 for scale in (4, 2, 1)]
    vision = transformers.Sam3VisionConfig(
        backbone_config=backbone, fpn_hidden_size=width, backbone_feature_sizes=sizes
    )
    decoder = {"hidden_size": width, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": width}
    prompts = {"hidden_size": width, "image_size": SAM3_SIDE}
    return {"vision_config": vision.to_dict(), "prompt_encoder_config": prompts, "mask_decoder_config": decoder}


def make_sam3() -> transformers.Sam3TrackerModel:
    """The tracker of a small SAM 3."""
    torch.manual_seed(0)
    model = transformers.Sam3TrackerModel(transformers.Sam3TrackerConfig(**sam3_parts()))
    _spread(model)
    position = model.prompt_encoder.shared_embedding.positional_embedding
    model.shared_image_embedding.positional_embedding.copy_(position)
    return model.eval()


def make_sam_hq(width: int = 32) -> transformers.SamHQModel:
    """A small SAM-HQ: 64 pixels, a 4 x 4 grid."""
    torch.manual_seed(0)
    vision = {"hidden_size": 48, "output_channels": width, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 64, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": width // 2}
    decoder = {"hidden_size": width, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": width}
    config = transformers.SamHQConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": width, "image_size": 64},
        mask_decoder_config={**decoder, "vit_dim": 48},
    )
    model = transformers.SamHQModel(config)
    _spread(model)
    position = model.prompt_encoder.shared_embedding.positional_embedding
    model.shared_image_embedding.positional_embedding.data.copy_(position.data)
    return model.eval()


def _decoder_tokens(segmenter, embedding, prompts):
    seen, every = [], []
    transformer = segmenter.network.mask_decoder.transformer
    hook = transformer.register_forward_hook(lambda module, inputs, output: seen.append(output[1]))
    try:
        for index, questions in enumerate(prompts):
            seen.clear()
            segmenter.decode(embedding[[index]], [questions])
            shape = segmenter.token_shape(embedding.features)
            rows = [part.reshape(-1, *part.shape[-2:]).transpose(1, 2).reshape(-1, *shape) for part in seen]
            every.append(torch.cat(rows) if rows else torch.zeros(0, *shape))
    finally:
        hook.remove()
    return every


@pytest.fixture(scope="session")
def decoder_tokens():
    """Function (segmenter, embedding, prompts) -> of each image the tokens (N, C, h, w) that its mask decoder makes."""
    return _decoder_tokens


@pytest.fixture(scope="session")
def small_sam():
    """Function (width) -> a small SAM."""
    return make_sam


@pytest.fixture(scope="session")
def small_sam2():
    """Function () -> a small SAM 2."""
    return make_sam2


@pytest.fixture(scope="session")
def small_sam3():
    """Function () -> the tracker of a small SAM 3."""
    return make_sam3


@pytest.fixture(scope="session")
def small_sam3_parts():
    """Function () -> the configurations of its parts."""
    return sam3_parts


@pytest.fixture(scope="session")
def small_sam_hq():
    """Function () -> a small SAM-HQ."""
    return make_sam_hq
