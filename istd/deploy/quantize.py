"""Static int8 quantization of an exported ONNX file by ONNX Runtime."""

import contextlib
import io
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2kit.files import atomic_write
from d2kit.require import require_extra
from istd.deploy.runners import INPUT, METADATA, Runner, open_model, write_metadata
from istd.recipe import prepare

QUANTIZED = ["Conv"]  # Convolutions alone cost 0.3 IoU; rounding the sums of residual blocks, too, cost 3 IoU.
LAST = 3  # The last convolutions in this number stay in float.
SMALL = 1024  # Convolutions with at most so many weights stay in float, such as the gates of channel attention.
PERCENTILES = (99.999, 99.99, 99.9)  # The ranges of activations that are tried hold this share of their values.
HELD_OUT = 4  # Every fourth image compares the ranges instead of calibrating them.


def float_convolutions(proto) -> list[str]:
    """Return the names of the convolutions that stay in float: those that read the image, small ones and the LAST ones.

    These layers lose the most accuracy with 8 bits, and they have few weights.
    """
    weights = {tensor.name: math.prod(tensor.dims) for tensor in proto.graph.initializer}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    from_image = {INPUT}
    first = []
    for node in proto.graph.node:
        if not from_image.intersection(node.input):
            continue
        if node.op_type == "Conv":
            first.append(node)
        else:
            from_image.update(node.output)
    small = [node for node in convolutions if weights.get(node.input[1], SMALL + 1) <= SMALL]
    return list(dict.fromkeys(node.name for node in [*first, *small, *convolutions[-LAST:]]))


def quantize(path: str | os.PathLike, output: str | os.PathLike, images: Sequence[np.ndarray]) -> str:
    """Write the int8 form of an ONNX file, which has the same input, output and metadata.

    Weights are quantized for each channel, and activations by their range on calibration images. Of several ranges, see
    PERCENTILES, the one is taken whose network deviates least from the original one on images that are held out.

    Args:
        path: .onnx file of `export_student`.
        output: .onnx file to write.
        images: (H, W) gray values 0..255 of training images; the images that are scored must not calibrate. Of fewer
            than HELD_OUT images, all do both.

    Returns:
        a phrase that names the range and its deviation, see `deviation`.

    Raises:
        ValueError: there is no image, or `path` is not an exported network.
        ImportError: onnx or onnxruntime is not installed.
    """
    onnx = require_extra("onnx", "onnx")
    quantization = require_extra("onnxruntime.quantization", "onnx")
    if not len(images):
        raise ValueError(f"'{output}': there is no image to calibrate by.")
    runner = open_model(path)
    held_out = images[HELD_OUT - 1 :: HELD_OUT] if len(images) >= HELD_OUT else images
    calibrating = [gray for i, gray in enumerate(images) if len(images) < HELD_OUT or i % HELD_OUT != HELD_OUT - 1]
    expected = [runner(gray) for gray in held_out]
    best = None
    with tempfile.TemporaryDirectory() as folder:
        preprocessed = Path(folder, "preprocessed.onnx")
        quantization.quant_pre_process(os.fspath(path), os.fspath(preprocessed), skip_symbolic_shape=True)
        for percentile in PERCENTILES:
            quantized = Path(folder, f"{percentile}.onnx")
            _quantize_static(preprocessed, quantized, _inputs(runner, calibrating), percentile)
            proto = onnx.load(quantized)
            onnx.helper.set_model_props(proto, {METADATA: write_metadata(runner.recipe, runner.multiple)})
            onnx.save(proto, quantized)
            small = open_model(quantized)
            loss = deviation(expected, [small(gray) for gray in held_out])
            if best is None or loss < best[0]:
                best = loss, percentile, proto.SerializeToString()
    loss, percentile, content = best
    with atomic_write(output) as file:
        file.write(content)
    return f"percentile {percentile}, deviation {loss:.4f}"


def deviation(expected: Sequence[np.ndarray], probabilities: Sequence[np.ndarray]) -> float:
    """Return the squared difference of probability maps, as a share of the squares of the expected ones."""
    difference = sum(float(((a - b) ** 2).sum()) for a, b in zip(expected, probabilities, strict=True))
    return difference / max(sum(float((a**2).sum()) for a in expected), 1e-12)


def _quantize_static(path: Path, output: Path, reader, percentile: float) -> None:
    """Quantize the convolutions of an ONNX file with the range of activations that `percentile` stands for."""
    onnx = require_extra("onnx", "onnx")
    quantization = require_extra("onnxruntime.quantization", "onnx")
    # One image at a time, because images differ in size, and all of them at once need too much memory.
    options = {"CalibStridedMinMax": 1, "CalibPercentile": percentile}
    with contextlib.redirect_stdout(io.StringIO()):  # ONNX Runtime prints each step.
        quantization.quantize_static(
            path,
            output,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=float_convolutions(onnx.load(path)),
            per_channel=True,
            reduce_range=True,  # CPUs without VNNI add products in 16 bits, which weights of 8 bits overflow.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options=options,
        )


def _inputs(runner: Runner, images: Sequence[np.ndarray]):
    """Return the reader of calibration images that ONNX Runtime asks for."""
    quantization = require_extra("onnxruntime.quantization", "onnx")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.set_range(0, len(images))

        def __len__(self) -> int:
            return len(images)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._remaining = iter(images[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            gray = next(self._remaining, None)
            return None if gray is None else {INPUT: prepare(runner.recipe, gray, runner.multiple).numpy()}

    return Reader()
