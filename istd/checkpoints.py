"""Files that hold one network with all that is needed to run it, and the published LESPS files they come from."""

import os
from dataclasses import asdict

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from d2kit.files import atomic_write, load_weights
from istd.modeling.backbones import Network, build_network
from istd.modeling.point_supervised import network_from_config, network_options
from istd.recipe import Recipe, prepare

LESPS_AT = "github.com/XinyiYing/LESPS (log/SIRST3)"


def identify_lesps(state: dict[str, Tensor], path: str | os.PathLike) -> Recipe:
    """Recipe of a LESPS state dict without the prefix "model."; its padding rule is the one it was published with.

    Raises:
        ValueError: it is neither ACM nor ALCNet; `path` is named.
    """
    if "fuse23.post.0.weight" in state:
        name = "ALCNet"
    elif "fuse2.post.0.weight" in state:
        name = "ACM"
    else:
        raise ValueError(
            f"'{path}' holds neither ACM nor ALCNet, the networks that LESPS publishes and that are known."
        )
    in_channels = state["stem.1.weight"].shape[1]
    norm = "BN" if any(key.startswith("fuse") and key.endswith("running_mean") for key in state) else "GN"
    return Recipe(name, {"in_channels": in_channels, "norm": norm}, pad_always=True)


def load_network(path: str | os.PathLike, key: str = "checkpoint") -> tuple[Network, Recipe]:
    """Load a file of `save_network` or a published LESPS file, strictly, in eval mode.

    Args:
        path: the file.
        key: option or configuration key that named it, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no network, or its tensors are not the network's.
    """
    loaded = load_weights(path, key, LESPS_AT)
    if not isinstance(loaded, dict) or not ({"model", "istd"} <= loaded.keys() or "state_dict" in loaded):
        raise ValueError(f"'{path}' holds no ISTD network: 'model' and 'istd', or LESPS' 'state_dict', are missing.")
    if "istd" in loaded:
        state, recipe = loaded["model"], Recipe(**loaded["istd"])
    else:
        state = {name.removeprefix("model."): tensor for name, tensor in loaded["state_dict"].items()}
        recipe = identify_lesps(state, path)
    network = build_network(recipe.network, **recipe.options)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"'{path}' does not hold the weights of {recipe.network} ({recipe.options}).") from error
    return network.eval(), recipe


def save_network(path: str | os.PathLike, network: Network, recipe: Recipe) -> None:
    """Write weights ("model") and recipe ("istd") at once or not at all; it reads back with `weights_only=True`."""
    with atomic_write(path) as file:
        torch.save({"model": network.state_dict(), "istd": asdict(recipe)}, file)


def load_student(cfg: CfgNode, path: str | os.PathLike) -> tuple[Network, Recipe]:
    """The network that a configuration trains, with the weights that answer in eval mode; no foundation model is read.

    Args:
        cfg: complete.
        path: checkpoint of its training, or a file of `save_network`.

    Returns:
        the network in eval mode and how it is fed.

    Raises:
        FileNotFoundError, ValueError: one sentence that names the file.
    """
    node, options = cfg.ISTD, network_options(cfg)
    network = network_from_config(cfg)
    state = load_weights(path, "MODEL.WEIGHTS").get("model", {})
    prefixes = [prefix for prefix in ("average.network.", "network.") if any(key.startswith(prefix) for key in state)]
    if prefixes:
        state = {key.removeprefix(prefixes[0]): value for key, value in state.items() if key.startswith(prefixes[0])}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"'{path}' does not hold the weights of {node.NETWORK.NAME}, which the configuration trains."
        ) from error
    recipe = Recipe(
        node.NETWORK.NAME,
        options,
        mean=node.INPUT.MEAN,
        std=node.INPUT.STD,
        pad_multiple=node.TEST.PAD_MULTIPLE,
        pad_always=node.TEST.PAD_ALWAYS,
        depth=node.INPUT.DEPTH,
        threshold=node.TEST.THRESHOLD,
    )
    return network.eval(), recipe


@torch.no_grad()
def predict(network: Network, recipe: Recipe, grey: np.ndarray) -> np.ndarray:
    """Probability of a target at each pixel.

    Args:
        grey: (H, W) grey values 0..255, any size.

    Returns:
        (H, W) float32 in [0, 1].
    """
    device = next(network.parameters()).device
    logits = network(prepare(recipe, grey).to(device))
    height, width = grey.shape
    return logits[0, 0, :height, :width].sigmoid().cpu().numpy()
