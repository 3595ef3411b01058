"""One way to run a network, whatever file it comes from: PyTorch weights, TorchScript or ONNX."""

import copy
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from d2kit.require import require_extra
from istd.recipe import Recipe, prepare

if TYPE_CHECKING:
    from istd.modeling.backbones import Network


METADATA = "istd"  # key of an ONNX file's metadata, name of a TorchScript file's extra file
INPUT = "image"
OUTPUT = "probability"


class Deployed(nn.Module):
    """What an exported file computes: (B, channels, H, W) normalized -> (B, 1, H, W) target probability.

    H and W are multiples of `multiple`: padding is up to who runs the file, see `istd.recipe.prepare`.
    """

    def __init__(self, network: "Network"):
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


@dataclass(frozen=True)
class Runner:
    """A network ready to run.

    Attributes:
        run: (B, channels, H, W) float32 on the CPU, normalized, sides multiples of `multiple` -> (B, 1, H, W) float32
            target probability on the CPU.
        recipe: how it is fed.
        multiple: see `run`.
    """

    run: Callable[[Tensor], Tensor]
    recipe: Recipe
    multiple: int

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Target probability of an image in one piece: (H, W) grey values 0..255 -> (H, W) float32 in [0, 1]."""
        height, width = grey.shape
        probability = self.run(prepare(self.recipe, grey, self.multiple))
        return probability[0, 0, :height, :width].numpy()


def run_network(network: "Network", recipe: Recipe, device: str | torch.device = "cpu") -> Runner:
    """A runner of a network in PyTorch."""
    return _run_module(Deployed(network), recipe, network.multiple, device)


def open_model(path: str | os.PathLike, device: str | torch.device = "cpu") -> Runner:
    """A runner of a file.

    Args:
        path: .onnx or .pt of `export_student`, or else a file that `istd.checkpoints.load_network` reads.
        device: cpu or cuda; ONNX Runtime takes cuda where its build has it, and the CPU elsewhere.

    Raises:
        FileNotFoundError, ValueError: one sentence that names the file.
        ImportError: one sentence, when onnxruntime is needed and not installed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"the network '{path}' does not exist.")
    suffix = Path(path).suffix
    if suffix == ".onnx":
        return _open_onnx(path, device)
    if suffix == ".pt":
        return _open_torchscript(path, device)
    from istd.checkpoints import load_network  # weights alone need the networks of the training stack

    return run_network(*load_network(path, "the network"), device)


def _run_module(module: nn.Module, recipe: Recipe, multiple: int, device: str | torch.device) -> Runner:
    module = module.to(device)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return module(images.to(device)).float().cpu()

    return Runner(run, recipe, multiple)


def _open_torchscript(path: str | os.PathLike, device: str | torch.device) -> Runner:
    extra = {METADATA: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(os.fspath(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"'{path}' is no TorchScript file ({str(error).splitlines()[0]}).") from error
    return _run_module(module.eval(), *read_metadata(extra[METADATA], path), device)


def _open_onnx(path: str | os.PathLike, device: str | torch.device) -> Runner:
    runtime = require_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # else it takes every core, whatever torch was told
    wanted = ["CUDAExecutionProvider"] if torch.device(device).type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in runtime.get_available_providers()]
    try:
        session = runtime.InferenceSession(os.fspath(path), options, providers=providers)
    except Exception as error:  # the runtime's own classes share no other base
        raise ValueError(f"'{path}' is no ONNX file that runs here ({str(error).splitlines()[0]}).") from error
    recipe, multiple = read_metadata(session.get_modelmeta().custom_metadata_map.get(METADATA), path)
    return Runner(lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0]), recipe, multiple)
