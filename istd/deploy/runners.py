"""Runners of networks, which have one interface for PyTorch weights, TorchScript files and ONNX files."""

import copy
import json
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from d2kit.files import first_line
from d2kit.require import require_extra
from istd.recipe import MAX_MULTIPLE, Recipe, check_recipe, prepare, recipe_from_fields

if TYPE_CHECKING:
    from istd.modeling.backbones import Network


logger = logging.getLogger(__name__)

METADATA = "istd"  # key of an ONNX file's metadata, and name of a TorchScript file's extra file
INPUT = "image"
OUTPUT = "probability"
MAX_PIXELS = 4096**2  # A network keeps tens of maps of its input's size: about 10 GiB for so many pixels.
CUDA = "CUDAExecutionProvider"


class Deployed(nn.Module):
    """The function that an exported file computes: (B, channels, H, W) normalized -> (B, 1, H, W) probability.

    H and W are multiples of the network's `multiple`; `istd.recipe.prepare` pads images to them.
    """

    def __init__(self, network: "Network"):
        super().__init__()
        self.network = copy.deepcopy(network).cpu().eval().merge().to(memory_format=torch.contiguous_format)

    def forward(self, image: Tensor) -> Tensor:
        return self.network.head(self.network.stages(image))[0].sigmoid()


def write_metadata(recipe: Recipe, multiple: int) -> str:
    """Return recipe and `multiple` as json; it has `channels`, too, for programs that read the file without Recipe."""
    return json.dumps(asdict(recipe) | {"channels": recipe.channels, "multiple": multiple})


def read_metadata(text: str | None, path: str | os.PathLike) -> tuple[Recipe, int]:
    """Invert `write_metadata`; a ValueError names `path` if the text is no such metadata, or a value is not sound."""
    try:
        values = json.loads(text or "")
        recipe = recipe_from_fields(values, path)
        multiple = values["multiple"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"'{path}' does not say how its network is fed (no metadata '{METADATA}'): export it with istd export."
        ) from error
    if multiple not in range(1, MAX_MULTIPLE + 1):
        raise ValueError(f"'{path}' holds a wrong description of its network: multiple must be in [1, {MAX_MULTIPLE}].")
    return check_recipe(recipe, path), int(multiple)


@dataclass(frozen=True)
class Runner:
    """A network that is ready to run.

    Attributes:
        run: function from (B, channels, H, W) float32 normalized images to (B, 1, H, W) float32 probabilities, both on
            the CPU, where H and W are multiples of `multiple`.
        recipe: recipe of the network.
        multiple: multiple of the network's own sides.
    """

    run: Callable[[Tensor], Tensor]
    recipe: Recipe
    multiple: int

    def __call__(self, gray: np.ndarray) -> np.ndarray:
        """Predict an image in one piece: (H, W) gray values 0..255 -> (H, W) float32 probability in [0, 1].

        Raises:
            ValueError: the image has more than MAX_PIXELS pixels.
        """
        height, width = gray.shape
        if height * width > MAX_PIXELS:
            raise ValueError(
                f"{width}x{height} pixels are too many for one piece: predict tiles of at most {MAX_PIXELS} pixels "
                "(istd.deploy.runners.MAX_PIXELS)."
            )
        probability = self.run(prepare(self.recipe, gray, self.multiple))
        return probability[0, 0, :height, :width].numpy()


def run_network(network: "Network", recipe: Recipe, device: str | torch.device = "cpu") -> Runner:
    """Return a runner of a copy of a PyTorch network."""
    return _run_module(Deployed(network), recipe, network.multiple, device)


def open_model(path: str | os.PathLike, device: str | torch.device = "cpu", *, trust: bool = False) -> Runner:
    """Return a runner of a file.

    An .onnx file and a file of weights are data. A TorchScript file is a program, which can do all that its user may.

    Args:
        path: .onnx or .pt file of `export_student`, or any other file that `istd.checkpoints.load_network` reads.
        device: cpu or cuda. Where PyTorch or ONNX Runtime cannot use CUDA, a warning says so, and the CPU is used.
        trust: whether a .pt file, TorchScript, may run; it is refused otherwise.

    Raises:
        FileNotFoundError, ValueError: the file is absent or is no network, or the device is none; the message names it.
        ImportError: the file needs onnxruntime, which is not installed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"the network '{path}' does not exist.")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"the device '{device}' is neither cpu nor cuda.") from error
    suffix = Path(path).suffix
    if suffix == ".onnx":
        return _open_onnx(path, device)
    if device.type == "cuda" and not torch.cuda.is_available():
        logger.warning("'%s' runs on the CPU, because PyTorch finds no CUDA device here.", path)
        device = torch.device("cpu")
    if suffix == ".pt":
        if not trust:
            raise ValueError(
                f"'{path}' is a TorchScript file, that is, a program that can do all that you may: use an .onnx file, "
                "or, if you trust its origin, give --trust (in Python trust=True)."
            )
        return _open_torchscript(path, device)
    from istd.checkpoints import load_network  # Only files of weights need the packages of training.

    return run_network(*load_network(path, "the network"), device)


def _run_module(module: nn.Module, recipe: Recipe, multiple: int, device: str | torch.device) -> Runner:
    module = module.to(device)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return module(images.to(device)).float().cpu()

    return Runner(run, recipe, multiple)


def _open_torchscript(path: str | os.PathLike, device: torch.device) -> Runner:
    extra = {METADATA: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(os.fspath(path), map_location="cpu", _extra_files=extra)
    except Exception as error:  # Damaged bytes raise many types.
        raise ValueError(f"'{path}' is no TorchScript file ({first_line(error)}).") from error
    return _run_module(module.eval(), *read_metadata(extra[METADATA], path), device)


def _open_onnx(path: str | os.PathLike, device: torch.device) -> Runner:
    runtime = require_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # Otherwise the session uses all cores, unlike torch.
    providers: list = ["CPUExecutionProvider"]
    if device.type == "cuda" and CUDA in runtime.get_available_providers():
        providers.insert(0, (CUDA, {"device_id": device.index or 0}))
    try:
        session = runtime.InferenceSession(os.fspath(path), options, providers=providers)
        metadata = session.get_modelmeta().custom_metadata_map.get(METADATA)
        inputs = [(item.name, item.shape[1:2]) for item in session.get_inputs()]
    except Exception as error:  # The exceptions of ONNX Runtime have no other common base.
        raise ValueError(f"'{path}' is no ONNX file that runs here ({first_line(error)}).") from error
    if device.type == "cuda" and CUDA not in session.get_providers():
        logger.warning(
            "'%s' runs on the CPU: this build of ONNX Runtime has no CUDA, or finds no device. The package "
            "onnxruntime-gpu has CUDA.",
            path,
        )
    recipe, multiple = read_metadata(metadata, path)
    if inputs != [(INPUT, [recipe.channels])]:
        raise ValueError(f"'{path}' does not take '{INPUT}' of {recipe.channels} channels, as it says, but {inputs}.")

    def run(images: Tensor) -> Tensor:
        try:
            probability = session.run([OUTPUT], {INPUT: images.numpy()})[0]
        except Exception as error:
            raise ValueError(f"'{path}' cannot predict an image ({first_line(error)}).") from error
        expected = (len(images), 1, *images.shape[2:])
        if probability.shape != expected or probability.dtype != np.float32:
            answer = f"{probability.dtype} {probability.shape}"
            raise ValueError(f"'{path}' predicts {answer} in place of float32 {expected}.")
        return torch.from_numpy(probability)

    return Runner(run, recipe, multiple)
