"""Functions that build timm's ViTs for images of any size and load their weights."""

import sys

from torch import nn

from d2kit.files import require_tensors


def build_timm_vit(name: str, pretrained: bool = False) -> nn.Module:
    """Build a timm ViT without a classifier.

    Args:
        name: a name of timm, for example "vit_small_patch14_dinov2" or "vit_small_plus_patch16_dinov3".
        pretrained: whether timm downloads the weights.

    Raises:
        ValueError: timm has no such model, or it is not a ViT for images of any size.
    """
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm has no model '{name}'.")
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise ValueError(f"timm's {name} is no ViT for images of any size.") from error
    if not all(hasattr(model, part) for part in ("blocks", "patch_embed", "forward_intermediates", "set_input_size")):
        raise ValueError(f"timm's {name} is no ViT for images of any size.")
    return model


def load_strictly(model: nn.Module, state: dict, name: str, path: str, prefix: str = "") -> None:
    """Load every tensor of a state dict in timm's layout, or in Meta's layout of DINOv2 and DINOv3.

    Args:
        model: a ViT of `build_timm_vit`, or another model.
        state: the content of the file; the wrappers "model", "state_dict" and "teacher" are removed.
        name: the name of the model, for the message.
        path: the path of the file, for the message.
        prefix: the prefix of the model's weights in a file that holds more networks; "" for none.

    Raises:
        ValueError: tensors are missing or unknown, or have another shape, or the file holds no tensors.
    """
    for wrapper in ("model", "state_dict", "teacher"):
        state = state.get(wrapper, state) if isinstance(state, dict) else {}
    state = require_tensors(state, path)
    if prefix:
        state = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)} or state
    elif "mask_token" in state or "storage_tokens" in state:
        state = sys.modules[type(model).__module__].checkpoint_filter_fn(state, model)
    expected = model.state_dict()
    missing = expected.keys() - state.keys()
    unexpected = state.keys() - expected.keys()
    reshaped = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    if missing or unexpected or reshaped:
        raise ValueError(
            f"'{path}' does not hold the weights of {name}: {len(missing)} tensors are missing, {len(unexpected)} are "
            f"unknown, {len(reshaped)} have another shape."
        )
    model.load_state_dict(state)
