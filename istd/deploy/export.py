"""Export of trained networks to ONNX or TorchScript files of any input size, which hold their own recipe."""

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
    """Write a network atomically in the format that the file's extension names; weights may be on any device.

    Args:
        network: trained network; .onnx and .pt files get its merged form (`Network.merge`).
        recipe: recipe of the network, which becomes the file's metadata.
        path: .onnx (input `image`, output `probability`, see `Deployed`), .pt (TorchScript of the same) or .pth
            (`istd.checkpoints.save_network`).

    Raises:
        ValueError: the path has another extension.
        ImportError: the path ends in .onnx and onnx is not installed.
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
    """Return an input for tracing, whose batch, height and width differ so that no size is taken for another."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, recipe.channels, 2 * multiple, 3 * multiple, generator=generator)


def _onnx_bytes(network: Network, recipe: Recipe) -> bytes:
    onnx = require_extra("onnx", "onnx")
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # Tracing warns of each comparison of sizes.
        # The exporter of torch.export takes minutes for the deep networks, and fixes the bins of pyramid pooling.
        torch.onnx.export(
            Deployed(network),
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
