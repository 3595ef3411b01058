"""Trained networks as ONNX or TorchScript files of any input size, which say themselves how they are fed."""

import copy
import io
import json
import os
import warnings
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from d2kit.files import atomic_write
from d2kit.require import require_extra
from istd.checkpoints import Recipe, save_network
from istd.modeling.backbones import Network

FORMATS = {".onnx": "ONNX", ".pt": "TorchScript", ".pth": "PyTorch weights"}
METADATA = "istd"  # key of an ONNX file's metadata, name of a TorchScript file's extra file
INPUT, OUTPUT = "image", "probability"
OPSET = 17
_DYNAMIC = {0: "batch", 2: "height", 3: "width"}


class Deployed(nn.Module):
    """What an exported file computes: (B, channels, H, W) normalised -> (B, 1, H, W) target probability.

    H and W are multiples of `multiple`: padding is up to who runs the file, see `istd.checkpoints.prepare`.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.network = copy.deepcopy(network).cpu().eval().merge().to(memory_format=torch.contiguous_format)
        self.multiple = network.multiple

    def forward(self, image: Tensor) -> Tensor:
        return self.network.head(self.network.stages(image))[0].sigmoid()


def write_metadata(recipe: Recipe, multiple: int) -> str:
    """Recipe and `multiple` as json text; `channels` stands beside the options for those who have only the file."""
    return json.dumps(asdict(recipe) | {"channels": recipe.channels, "multiple": multiple})


def read_metadata(text: str | None, path: str | os.PathLike) -> tuple[Recipe, int]:
    """The inverse of `write_metadata`; ValueError names `path` when the text is none of it."""
    try:
        found = json.loads(text or "")
        return Recipe(**{field.name: found[field.name] for field in fields(Recipe)}), int(found["multiple"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' does not say how its network is fed (no metadata '{METADATA}'): export it with "
            "tools/export_student.py."
        ) from error


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
