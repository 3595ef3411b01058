"""Exported files give PyTorch's probabilities at any size, for every registered network, and say how they are fed."""

import json

import numpy as np
import onnx
import pytest
import torch

from istd.checkpoints import Recipe, load_network, load_student
from istd.deploy import open_model
from istd.deploy.export import export_student
from istd.deploy.runners import read_metadata, run_network
from istd.engine.trainer import ISTDTrainer
from istd.modeling import NETWORK_REGISTRY, build_network
from istd.recipe import prepare

NAMES = [name for name, _ in NETWORK_REGISTRY]
RECIPE = {"mean": 101.0, "std": 37.0, "pad_multiple": 8, "value_range": "type", "polarity": "dark", "threshold": 0.4}
SIZES = [(64, 64), (33, 70), (7, 90)]


@torch.no_grad()
def predict(network, recipe, gray):
    logits = network(prepare(recipe, gray))
    return logits[0, 0, : gray.shape[0], : gray.shape[1]].sigmoid().numpy()


def gray_image(size, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, size).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_gives_the_same_at_any_size(name, build_settled, tmp_path):
    network, recipe = build_settled(name), Recipe(name, {"in_channels": 3}, **RECIPE)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    runners = {"torch": run_network(network, recipe)}
    for suffix in (".onnx", ".pt", ".pth"):
        path = tmp_path / f"student{suffix}"
        export_student(network, recipe, path)
        runners[suffix] = open_model(path, trust=True)
        assert runners[suffix].recipe == recipe and runners[suffix].multiple == network.multiple
    for size in SIZES:
        gray = gray_image(size)
        expected = predict(network, recipe, gray)
        assert expected.shape == size and np.ptp(expected) > 1e-3
        for kind, runner in runners.items():
            np.testing.assert_allclose(runner(gray), expected, atol=1e-4, rtol=0, err_msg=f"{kind} {size}")
    batch = torch.randn(3, 3, 48, 32)
    for runner in runners.values():
        torch.testing.assert_close(runner.run(batch), runners["torch"].run(batch), atol=1e-4, rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_file_holds_all_that_is_needed_to_feed_it(tmp_path):
    network = build_network("ACM", in_channels=1, norm="BN")
    recipe = Recipe("ACM", {"in_channels": 1, "norm": "BN"}, **RECIPE, pad_always=True)
    export_student(network, recipe, tmp_path / "student.onnx")
    proto = onnx.load(tmp_path / "student.onnx")
    (entry,) = proto.metadata_props
    assert entry.key == "istd"
    assert json.loads(entry.value) == {
        "network": "ACM",
        "options": {"in_channels": 1, "norm": "BN"},
        "mean": 101.0,
        "std": 37.0,
        "pad_multiple": 8,
        "pad_always": True,
        "value_range": "type",
        "polarity": "dark",
        "threshold": 0.4,
        "channels": 1,
        "multiple": 16,
    }
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes["image"] == ["batch", 1, "height", "width"]
    assert shapes["probability"][0] == "batch" and shapes["probability"][2:] == ["height", "width"]


def test_a_checkpoint_gives_the_network_that_answers(istd_cfg, tmp_path):
    """The averaged student, without a look at the foundation model's file."""
    cfg = istd_cfg("acm_semantic_prior", OUTPUT_DIR=str(tmp_path), ISTD__SCHEDULE__EPOCHS=1)
    trainer = ISTDTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    model = trainer.network.eval()
    cfg = istd_cfg("acm_semantic_prior", ISTD__VFM__CHECKPOINT="absent.pth", ISTD__TEST__THRESHOLD=0.3)
    network, recipe = load_student(cfg, tmp_path / "model_0000001.pth")
    assert not network.training and recipe.threshold == 0.3
    assert recipe.options == {"in_channels": 3, "momentum": 0.1}
    gray = gray_image((40, 50))
    image = {"image": torch.from_numpy(gray).expand(3, -1, -1), "file_name": "x.png"}
    expected = model.probabilities(image, "student")["student"].numpy()
    np.testing.assert_allclose(predict(network, recipe, gray), expected, atol=1e-6)
    plain = model.network(((image["image"] - model.mean) / model.std)[None])[0, 0].sigmoid()
    assert np.abs(plain.detach().numpy() - expected).max() > 1e-6, "the average differs from the last weights"
    export_student(network, recipe, tmp_path / "student.pth")
    assert load_network(tmp_path / "student.pth")[1] == recipe
    again, _ = load_student(cfg, tmp_path / "student.pth")
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in again.state_dict().items())


def test_what_does_not_fit_is_one_sentence(istd_cfg, tmp_path):
    network = build_network("ACM")
    with pytest.raises(ValueError, match="student.bin.*exported as .onnx"):
        export_student(network, Recipe("ACM"), tmp_path / "student.bin")
    export_student(network, Recipe("ACM"), tmp_path / "acm.pth")
    with pytest.raises(ValueError, match="acm.pth' does not hold the weights of MLCLNet"):
        load_student(istd_cfg("mlclnet_full"), tmp_path / "acm.pth")
    with pytest.raises(ValueError, match="other.onnx.*istd export"):
        read_metadata('{"mean": 1}', "other.onnx")
    with pytest.raises(FileNotFoundError, match="absent.onnx"):
        open_model(tmp_path / "absent.onnx")
    for suffix, kind in ((".onnx", "no ONNX file"), (".pt", "no TorchScript file"), (".pth", "loads safely")):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"not a network")
        with pytest.raises(ValueError, match=kind):
            open_model(path, trust=True)


def test_a_foreign_onnx_file_is_refused(tmp_path):
    export_student(build_network("ACM"), Recipe("ACM"), tmp_path / "student.onnx")
    proto = onnx.load(tmp_path / "student.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="foreign.onnx.*how its network is fed"):
        open_model(tmp_path / "foreign.onnx")


def test_files_of_an_older_version_keep_their_scaling(tmp_path):
    fields = {"network": "ACM", "options": {}, "mean": 1.0, "std": 2.0, "pad_multiple": 8, "pad_always": False}
    for depth, value_range in (("type", "type"), ("range", "percentiles")):
        old = fields | {"depth": depth, "threshold": 0.5, "channels": 3, "multiple": 16}
        assert read_metadata(json.dumps(old), "old.onnx")[0].value_range == value_range
        content = {"model": build_network("ACM").state_dict(), "istd": fields | {"depth": depth, "threshold": 0.5}}
        torch.save(content, tmp_path / "old.pth")
        assert load_network(tmp_path / "old.pth")[1].value_range == value_range


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
@pytest.mark.parametrize("suffix, builder", [(".onnx", "ONNX Runtime"), (".pt", "PyTorch"), (".pth", "PyTorch")])
def test_a_device_that_is_not_there_is_told(tmp_path, caplog, suffix, builder):
    path = tmp_path / f"student{suffix}"
    export_student(build_network("ACM"), Recipe("ACM"), path)
    gray = gray_image((40, 50))
    assert np.array_equal(open_model(path, "cuda", trust=True)(gray), open_model(path, trust=True)(gray))
    assert len(caplog.records) == 1
    assert f"student{suffix}' runs on the CPU" in caplog.text and builder in caplog.text
    with pytest.raises(ValueError, match="the device 'gpu' is neither cpu nor cuda"):
        open_model(path, "gpu")
