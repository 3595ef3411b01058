"""A file is opened if its description is sound, and a program only if its user trusts it."""

import json
from dataclasses import asdict

import cv2
import numpy as np
import onnx
import pytest
import torch

from d2kit.commands import run_command
from istd.checkpoints import load_network
from istd.commands import detect
from istd.deploy import ISTDPredictor, open_model
from istd.deploy.export import export_student
from istd.deploy.runners import METADATA, read_metadata, run_network
from istd.modeling import build_network
from istd.recipe import Recipe


def with_metadata(path, **values):
    """Change values of the description that an .onnx file holds."""
    proto = onnx.load(path)
    description = json.loads(proto.metadata_props[0].value)
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(description | values)})
    onnx.save(proto, path)


WRONG_VALUES = [
    ("pad_multiple", 20000),
    ("pad_multiple", 0),
    ("pad_multiple", 32.5),
    ("pad_always", "no"),
    ("std", 0),
    ("std", float("nan")),
    ("std", 10**400),
    ("mean", float("inf")),
    ("mean", "95"),
    ("threshold", 1.0),
    ("threshold", True),
    ("value_range", "deep"),
    ("value_range", 3),
    ("polarity", "cold"),
    ("network", ["ACM"]),
    ("options", {"in_channels": 9}),
    ("options", {"in_channels": [3]}),
    ("options", {"blocks": 10**9}),
    ("options", [3]),
]


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES)
def test_a_wrong_description_is_refused_by_name(tmp_path, name, value):
    description = asdict(Recipe("ACM")) | {name: value}
    torch.save({"model": build_network("ACM").state_dict(), "istd": description}, tmp_path / "a.pth")
    key = "in_channels" if value == {"in_channels": 9} else name
    match = f"a.pth' holds a wrong description of its network: {key} must be"
    with pytest.raises(ValueError, match=match):
        load_network(tmp_path / "a.pth")
    text = json.dumps(description | {"multiple": 32})
    with pytest.raises(ValueError, match=match.replace("a.pth", "a.onnx")):
        read_metadata(text, "a.onnx")


def test_a_description_has_to_fit_its_network(tmp_path):
    path = tmp_path / "a.onnx"
    export_student(build_network("ACM"), Recipe("ACM"), path)
    with_metadata(path, multiple=10**6)
    with pytest.raises(ValueError, match=r"a\.onnx' holds a wrong description of its network: multiple must be in"):
        open_model(path)
    with_metadata(path, multiple=16, options={"in_channels": 1})
    with pytest.raises(ValueError, match=r"a\.onnx' does not take 'image' of 1 channels"):
        open_model(path)
    torch.save({"model": {"weight": torch.ones(1)}, "istd": {"network": "ACM", "color": 1}}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b\.pth' does not say how its network is fed"):
        load_network(tmp_path / "b.pth")
    torch.save({"model": {"weight": torch.ones(1)}, "istd": asdict(Recipe("ACM", {"color": 1}))}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"c\.pth' describes no network that can be built: .*color"):
        load_network(tmp_path / "c.pth")


def test_torchscript_needs_trust(tmp_path, capsys):
    network, gray = build_network("ACM"), np.zeros((32, 32), np.float32)
    export_student(network, Recipe("ACM"), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt' is a TorchScript file, that is, a program .* give --trust"):
        ISTDPredictor.from_file(tmp_path / "a.pt")
    trusted = ISTDPredictor.from_file(tmp_path / "a.pt", trust=True)
    np.testing.assert_allclose(trusted.probability(gray), run_network(network, Recipe("ACM"))(gray), atol=1e-6)
    cv2.imwrite(str(tmp_path / "image.png"), gray)
    command = [str(tmp_path / "image.png"), "--model", str(tmp_path / "a.pt"), "--output", str(tmp_path / "out")]
    assert run_command(detect, command) != 0 and "give --trust" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run_command(detect, [*command, "--trust"]) == 0 and (tmp_path / "out" / "detections.csv").is_file()
    (tmp_path / "a.pt").rename(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth' is not a checkpoint that loads safely"):
        open_model(tmp_path / "a.pth")


def test_an_image_for_one_piece_has_a_limit(monkeypatch):
    runner = run_network(build_network("ACM"), Recipe("ACM"))
    monkeypatch.setattr("istd.deploy.runners.MAX_PIXELS", 32 * 40)
    assert runner(np.zeros((32, 40), np.float32)).shape == (32, 40)
    with pytest.raises(ValueError, match=r"41x32 pixels are too many .*istd\.deploy\.runners\.MAX_PIXELS"):
        runner(np.zeros((32, 41), np.float32))
    predictor = ISTDPredictor(runner=runner, tile=32, overlap=8)
    assert predictor.probability(np.zeros((64, 41), np.uint8)).shape == (64, 41)
