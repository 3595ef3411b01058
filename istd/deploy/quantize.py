"""Static int8 quantization of an exported ONNX file by ONNX Runtime."""

import contextlib
import io
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
# Ranges of activations that are tried, as the percentile of their values, or None for smallest and largest value.
PERCENTILES = (None, 99.999, 99.99)
HELD_OUT = 4  # Every fourth image compares the ranges instead of calibrating them.


def first_and_last(proto) -> list[str]:
    """Return the names of the convolutions that read the image and of the LAST ones.

    These layers lose the most accuracy with 8 bits, and they have few weights.
    """
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    from_image = {INPUT}
    first = []
    for node in proto.graph.node:
        if not from_image.intersection(node.input):
            continue
        if node.op_type == "Conv":
            first.append(node.name)
        else:
            from_image.update(node.output)
    return list(dict.fromkeys(first + convolutions[-LAST:]))


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
    name = "smallest to largest value" if percentile is None else f"percentile {percentile}"
    return f"{name}, deviation {loss:.4f}"


def deviation(expected: Sequence[np.ndarray], probabilities: Sequence[np.ndarray]) -> float:
    """Return the squared difference of probability maps, as a share of the squares of the expected ones."""
    difference = sum(float(((a - b) ** 2).sum()) for a, b in zip(expected, probabilities, strict=True))
    return difference / max(sum(float((a**2).sum()) for a in expected), 1e-12)


def _quantize_static(path: Path, output: Path, reader, percentile: float | None) -> None:
    """Quantize the convolutions of an ONNX file with the range of activations that `percentile` stands for."""
    onnx = require_extra("onnx", "onnx")
    quantization = require_extra("onnxruntime.quantization", "onnx")
    methods = quantization.CalibrationMethod
    options = {"CalibStridedMinMax": 1}  # One image at a time, because images differ in size and all need memory.
    if percentile is not None:
        options["CalibPercentile"] = percentile
    with contextlib.redirect_stdout(io.StringIO()):  # ONNX Runtime prints each step.
        quantization.quantize_static(
            path,
            output,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=first_and_last(onnx.load(path)),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=methods.MinMax if percentile is None else methods.Percentile,
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
