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

QUANTIZED = ["Conv"]  # Convolutions alone cost 0.3 IoU; rounding the sums of residual blocks, too, cost 3 IoU.


def first_and_last(proto) -> list[str]:
    """Return the names of the convolutions that read the image and of the last one.

    These layers lose the most accuracy with 8 bits, and they cost the least time.
    """
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    return [node.name for node in convolutions if INPUT in node.input] + [node.name for node in convolutions[-1:]]


def quantize(path: str | os.PathLike, output: str | os.PathLike, images: Sequence[np.ndarray]) -> None:
    """Write the int8 form of an ONNX file, which has the same input, output and metadata.

    Weights are quantized for each channel, and activations by their range on calibration images.

    Args:
        path: .onnx file of `export_student`.
        output: .onnx file to write.
        images: (H, W) gray values 0..255 of training images; the images that are scored must not calibrate.

    Raises:
        ValueError: there is no image, or `path` is not an exported network.
        ImportError: onnx or onnxruntime is not installed.
    """
    onnx = require_extra("onnx", "onnx")
    quantization = require_extra("onnxruntime.quantization", "onnx")
    if not len(images):
        raise ValueError(f"'{output}': there is no image to calibrate by.")
    runner = open_model(path)
    inputs = ({INPUT: prepare(runner.recipe, gray, runner.multiple).numpy()} for gray in images)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(inputs, None)

    with tempfile.TemporaryDirectory() as folder:
        preprocessed = Path(folder, "preprocessed.onnx")
        quantized = Path(folder, "quantized.onnx")
        quantization.quant_pre_process(os.fspath(path), os.fspath(preprocessed), skip_symbolic_shape=True)
        quantization.quantize_static(
            preprocessed,
            quantized,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=first_and_last(onnx.load(preprocessed)),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        proto = onnx.load(quantized)
    onnx.helper.set_model_props(proto, {METADATA: write_metadata(runner.recipe, runner.multiple)})
    with atomic_write(output) as file:
        file.write(proto.SerializeToString())
