"""Trained networks as ONNX or TorchScript files of any input size, which say themselves how they are fed."""

import io
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from d2kit.files import atomic_write
from d2kit.require import require_extra
from istd.checkpoints import save_network
from istd.deploy.runners import INPUT, METADATA, OUTPUT, Deployed, write_metadata
from istd.modeling.backbones import Network
from istd.recipe import Recipe

FORMATS = {".onnx": "ONNX", ".pt": "TorchScript", ".pth": "PyTorch weights"}
OPSET = 17
_DYNAMIC = {0: "batch", 2: "height", 3: "width"}


def export_student(network: Network, recipe: Recipe, path: str | os.PathLike) -> None:
    """Write a network in the format that the file's extension names, atomically; weights may be on any device.

    Args:
        network: as trained; parts that only training needs are merged or left out of .onnx and .pt files.
        recipe: how it is fed; becomes the file's metadata.
        path: .onnx (input `image`, output `probability`, see `Deployed`), .pt (TorchScript of the same) or .pth
            (`istd.checkpoints.save_network`).

    Raises:
        ValueError: another extension.
        ImportError: one sentence, when .onnx is asked for and onnx is not installed.
    """
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        known = ", ".join(f"{extension} ({name})" for extension, name in FORMATS.items())
        raise ValueError(f"'{path}': an ISTD network is exported as {known}.")
    if suffix == ".pth":
        save_network(path, network, recipe)
        return
    data = _onnx_bytes(network, recipe) if suffix == ".onnx" else _torchscript_bytes(network, recipe)
    with atomic_write(path) as file:
        file.write(data)


def _example(recipe: Recipe, multiple: int) -> Tensor:
    """An input to trace with; not square and of two images, so that no size can be taken for another."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, recipe.channels, 2 * multiple, 3 * multiple, generator=generator)


def _onnx_bytes(network: Network, recipe: Recipe) -> bytes:
    onnx = require_extra("onnx", "onnx")
    model, buffer = Deployed(network), io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing reports each comparison of sizes
        # The exporter of torch.export takes minutes for the deep networks, and fixes the bins of pyramid pooling.
        torch.onnx.export(
            model,
            (_example(recipe, network.multiple),),
            buffer,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: _DYNAMIC, OUTPUT: _DYNAMIC},
            opset_version=OPSET,
            dynamo=False,
        )
    proto = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(proto, {METADATA: write_metadata(recipe, network.multiple)})
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _torchscript_bytes(network: Network, recipe: Recipe) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Deployed(network), _example(recipe, network.multiple), check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={METADATA: write_metadata(recipe, network.multiple)})
    return buffer.getvalue()
