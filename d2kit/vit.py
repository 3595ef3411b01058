"""timm's ViTs with images of any size, and the files of weights they come in."""

import sys

from torch import nn


def build_timm_vit(name: str, pretrained: bool = False) -> nn.Module:
    """A ViT of timm without a classifier.

    Args:
        name: for example "vit_small_patch14_dinov2" or "vit_small_plus_patch16_dinov3".
        pretrained: let timm fetch its weights.

    Raises:
        ValueError: timm has no such model, or it is no ViT with images of any size.
    """
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm has no model '{name}'.")
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise ValueError(f"timm's {name} is no ViT with images of any size.") from error
    if not all(hasattr(model, part) for part in ("blocks", "patch_embed", "forward_intermediates", "set_input_size")):
        raise ValueError(f"timm's {name} is no ViT with images of any size.")
    return model


def load_strictly(model: nn.Module, state: dict, name: str, path: str, prefix: str = "") -> None:
    """Load a state dict in timm's layout, or in Meta's of DINOv2 and DINOv3, every tensor of it.

    Args:
        model: what `build_timm_vit` gave, or another model.
        state: content of the file; the usual wrappers around a state dict are taken off.
        name: of the model; path: of the file; both for the message.
        prefix: of the model's weights in a file that holds more; "" for none.

    Raises:
        ValueError: one sentence when the weights are not this model's.
    """
    for wrapper in ("model", "state_dict", "teacher"):
        state = state.get(wrapper, state) if isinstance(state, dict) else {}
    if prefix:
        state = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)} or state
    elif "mask_token" in state or "storage_tokens" in state:
        state = sys.modules[type(model).__module__].checkpoint_filter_fn(state, model)
    wanted = model.state_dict()
    missing, unexpected = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    reshaped = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    if missing or unexpected or reshaped:
        raise ValueError(
            f"'{path}' does not hold the weights of {name}: {len(missing)} tensors are missing, {len(unexpected)} are "
            f"unknown, {len(reshaped)} have another shape."
        )
    model.load_state_dict(state)
