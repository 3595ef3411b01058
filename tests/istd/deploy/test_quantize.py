"""The int8 form: smaller, close to the network that it comes from, fed alike."""

import numpy as np
import onnx
import pytest

from istd.checkpoints import Recipe
from istd.deploy import open_model
from istd.deploy.export import export_student
from istd.deploy.quantize import deviation, float_convolutions, quantize
from istd.modeling import NETWORK_REGISTRY


@pytest.fixture(scope="module")
def exported(build_settled, tmp_path_factory):
    path = tmp_path_factory.mktemp("quantize") / "student.onnx"
    export_student(build_settled("ALCNet"), Recipe("ALCNet", threshold=0.4), path)
    return path


def test_int8(exported, tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (3, 64, 80)).astype(np.float32)
    quantize(exported, tmp_path / "out" / "int8.onnx", images)
    plain, small = open_model(exported), open_model(tmp_path / "out" / "int8.onnx")
    assert small.recipe == plain.recipe and small.multiple == plain.multiple
    assert (tmp_path / "out" / "int8.onnx").stat().st_size < 0.5 * exported.stat().st_size
    gray = np.random.default_rng(1).uniform(0, 255, (50, 90)).astype(np.float32)
    difference = np.abs(small(gray) - plain(gray))
    assert 0 < difference.max() < 0.25 and difference.mean() < 0.05


@pytest.mark.parametrize("name", [name for name, _ in NETWORK_REGISTRY])
def test_every_network_has_an_int8_form(name, build_settled, tmp_path, monkeypatch):
    monkeypatch.setattr("istd.deploy.quantize.PERCENTILES", (99.99,))  # One range is enough here.
    plain, small = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    export_student(build_settled(name), Recipe(name), plain)
    quantize(plain, small, np.random.default_rng(0).uniform(0, 255, (2, 33, 70)).astype(np.float32))
    kinds = {node.op_type for node in onnx.load(small).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert small.stat().st_size < 0.6 * plain.stat().st_size
    exact, rounded = open_model(plain), open_model(small)
    for size in ((32, 48), (33, 70)):
        gray = np.random.default_rng(1).uniform(0, 255, size).astype(np.float32)
        expected, found = exact(gray), rounded(gray)
        assert found.shape == size and np.abs(found - expected).max() > 0
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.7


def test_the_first_and_the_last_convolutions_stay_in_float(exported, tmp_path):
    proto = onnx.load(exported)
    excluded = float_convolutions(proto)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    names = [node.name for node in convolutions]
    assert excluded[0] == names[0], "it reads the image through a BatchNorm"
    assert set(names[-3:]) < set(excluded) and len(excluded) < len(names) / 2
    sizes = {tensor.name: np.prod(tensor.dims) for tensor in proto.graph.initializer}
    assert all(sizes[node.input[1]] > 1024 for node in convolutions if node.name not in excluded)
    quantize(exported, tmp_path / "int8.onnx", np.zeros((1, 32, 32), np.float32) + 50)
    made = {output: node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node for output in node.output}
    last = [node for node in onnx.load(tmp_path / "int8.onnx").graph.node if node.op_type == "Conv"][-1]
    assert made.get(last.input[1]) != "DequantizeLinear" and "DequantizeLinear" in made.values()


def test_the_range_with_the_least_deviation_is_taken(exported, tmp_path, monkeypatch, capsys):
    images = np.random.default_rng(0).normal(90, 30, (8, 32, 48)).clip(0, 255).astype(np.float32)
    chosen, tried = {}, (99.9, 50.0)
    for percentiles in [(percentile,) for percentile in tried] + [tried]:
        monkeypatch.setattr("istd.deploy.quantize.PERCENTILES", percentiles)
        chosen[percentiles] = quantize(exported, tmp_path / "int8.onnx", images)
    deviations = {key: float(text.split()[-1]) for key, text in chosen.items()}
    assert deviations[(50.0,)] > deviations[(99.9,)] == deviations[tried]
    assert chosen[tried].startswith("percentile 99.9, deviation 0.") and not capsys.readouterr().out


def test_images_of_several_sizes_calibrate(exported, tmp_path):
    images = [np.full((side, 40), 90, np.float32) for side in (32, 48, 64, 33)]
    quantize(exported, tmp_path / "int8.onnx", images)
    assert open_model(tmp_path / "int8.onnx")(images[0]).shape == (32, 40)


def test_deviation():
    maps = [np.array([[0.0, 0.6], [0.8, 0.0]])]
    assert deviation(maps, maps) == 0 and deviation(maps, [np.zeros((2, 2))]) == pytest.approx(1)
    assert deviation([np.zeros((2, 2))], [np.zeros((2, 2))]) == 0


def test_calibration_needs_an_image(exported, tmp_path):
    with pytest.raises(ValueError, match="int8.onnx': there is no image to calibrate by"):
        quantize(exported, tmp_path / "int8.onnx", [])
    assert not (tmp_path / "int8.onnx").exists()
