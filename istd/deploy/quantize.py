"""Static int8 quantization of an exported ONNX file by ONNX Runtime."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2kit.files import atomic_write
from d2kit.require import require_extra
from istd.deploy.runners import INPUT, METADATA, open_model, write_metadata
from istd.recipe import prepare

QUANTISED = ("Conv",)  # rounding the sums of residual blocks as well cost 3 IoU, convolutions alone 0.3


def first_and_last(proto) -> list[str]:
    """Names of the convolutions that see the image, and of the last one: they lose most by 8 bits and cost least."""
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    return [node.name for node in convolutions if INPUT in node.input] + [node.name for node in convolutions[-1:]]


def quantize(path: str | os.PathLike, output: str | os.PathLike, images: Sequence[np.ndarray]) -> None:
    """Write an int8 form of an ONNX file: weights by channel, activations by their range on calibration images.

    Input, output and metadata stay, so that it runs like the file it comes from.

    Args:
        path: .onnx of `export_student`.
        output: .onnx to write.
        images: (H, W) grey values 0..255 that give the ranges; training images, since what is scored must not.

    Raises:
        ValueError: no image to calibrate by, or `path` is no exported network.
        ImportError: one sentence, when onnx or onnxruntime are not installed.
    """
    onnx, quantization = require_extra("onnx", "onnx"), require_extra("onnxruntime.quantization", "onnx")
    if not len(images):
        raise ValueError(f"'{output}': there is no image to calibrate by.")
    runner = open_model(path)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.inputs = (prepare(runner.recipe, grey, runner.multiple) for grey in images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.inputs, None)
            return None if image is None else {INPUT: image.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        ready, found = Path(folder, "ready.onnx"), Path(folder, "int8.onnx")
        quantization.quant_pre_process(os.fspath(path), os.fspath(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            ready,
            found,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=first_and_last(onnx.load(ready)),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        proto = onnx.load(found)
    onnx.helper.set_model_props(proto, {METADATA: write_metadata(runner.recipe, runner.multiple)})
    with atomic_write(output) as file:
        file.write(proto.SerializeToString())
