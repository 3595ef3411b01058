"""Files that hold one network and the recipe to run it, and conversion of published LESPS files."""

import os
from dataclasses import asdict

import torch
from detectron2.config import CfgNode
from torch import Tensor

from d2kit.files import atomic_write, first_line, load_weights, require_tensors
from istd.modeling.backbones import Network, build_network
from istd.modeling.point_supervised import network_from_config, network_options
from istd.recipe import Recipe, check_recipe, recipe_from_fields

LESPS_SOURCE = "github.com/XinyiYing/LESPS (log/SIRST3)"


def identify_lesps(state: dict[str, Tensor], path: str | os.PathLike) -> Recipe:
    """Make the recipe of a LESPS state dict without the prefix "model."; the padding rule is the published one.

    Raises:
        ValueError: the state dict is neither ACM's nor ALCNet's; the message names `path`.
    """
    if "fuse23.post.0.weight" in state:
        name = "ALCNet"
    elif "fuse2.post.0.weight" in state:
        name = "ACM"
    else:
        raise ValueError(f"'{path}' holds neither ACM nor ALCNet, which are the supported networks of LESPS.")
    first = state.get("stem.1.weight")
    if first is None or first.ndim != 4 or first.shape[1] not in (1, 3):
        raise ValueError(f"'{path}' lacks the first layer of {name}, 'stem.1.weight' of 1 or 3 channels.")
    in_channels = first.shape[1]
    norm = "BN" if any(key.startswith("fuse") and key.endswith("running_mean") for key in state) else "GN"
    return Recipe(name, {"in_channels": in_channels, "norm": norm}, pad_always=True)


def load_network(path: str | os.PathLike, key: str = "checkpoint") -> tuple[Network, Recipe]:
    """Load a file of `save_network` or a published LESPS file, strictly, in eval mode.

    Args:
        path: file of the network.
        key: option or configuration key that names the file, for messages.

    Raises:
        FileNotFoundError, ValueError: the file is absent, holds no network, or holds tensors of another network.
    """
    content = load_weights(path, key, LESPS_SOURCE)
    if not ({"model", "istd"} <= content.keys() or "state_dict" in content):
        raise ValueError(
            f"'{path}' holds no ISTD network: 'model' and 'istd', or LESPS' 'state_dict', are missing. A checkpoint of "
            "a training needs the config.yaml of that training as --config-file."
        )
    if "istd" in content:
        state = require_tensors(content["model"], path)
        recipe = check_recipe(recipe_from_fields(content["istd"], path), path)
    else:
        published = require_tensors(content["state_dict"], path)
        state = {name.removeprefix("model."): tensor for name, tensor in published.items()}
        recipe = identify_lesps(state, path)
    try:
        network = build_network(recipe.network, **recipe.options)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"'{path}' describes no network that can be built: {first_line(error)}") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"'{path}' does not hold the weights of {recipe.network} ({recipe.options}).") from error
    return network.eval(), recipe


def save_network(path: str | os.PathLike, network: Network, recipe: Recipe) -> None:
    """Write weights ("model") and recipe ("istd") atomically, in a file that `weights_only=True` can read."""
    with atomic_write(path) as file:
        torch.save({"model": network.state_dict(), "istd": asdict(recipe)}, file)


def load_student(cfg: CfgNode, path: str | os.PathLike) -> tuple[Network, Recipe]:
    """Load a configuration's network with the weights that predict in eval mode, without the foundation model.

    Args:
        cfg: complete configuration.
        path: checkpoint of its training, or a file of `save_network`.

    Returns:
        the network in eval mode, and its recipe.

    Raises:
        FileNotFoundError, ValueError: the file is absent, or does not hold the network's weights.
    """
    node = cfg.ISTD
    network = network_from_config(cfg)
    state = require_tensors(load_weights(path, "MODEL.WEIGHTS").get("model", {}), path)
    for prefix in ("average.network.", "network."):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            break
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"'{path}' does not hold the weights of {node.NETWORK.NAME}, which the configuration trains."
        ) from error
    recipe = Recipe(
        node.NETWORK.NAME,
        network_options(cfg),
        mean=node.INPUT.MEAN,
        std=node.INPUT.STD,
        value_range=node.INPUT.RANGE,
        polarity=node.INPUT.POLARITY,
        threshold=node.TEST.THRESHOLD,
    )
    return network.eval(), recipe
