"""The predictor: from a configuration, from a file, on gray and color images, tiled."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from istd.deploy import ISTDPredictor
from istd.deploy.export import export_student
from istd.modeling import build_network


@pytest.fixture(scope="module")
def trained(istd_cfg, tmp_path_factory):
    """A model, and the configuration whose MODEL.WEIGHTS are its checkpoint."""
    path = tmp_path_factory.mktemp("predictor") / "model.pth"
    cfg = istd_cfg("alcnet_full", MODEL__WEIGHTS=str(path), ISTD__TEST__THRESHOLD=0.02)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.save({"model": model.state_dict()}, path)
    return model, cfg


def test_it_is_the_model_in_eval_mode(trained):
    model, cfg = trained
    gray = np.random.default_rng(0).uniform(0, 255, (50, 71)).astype(np.float32)
    (expected,) = model([{"image": torch.from_numpy(gray).expand(3, -1, -1), "file_name": "x.png"}])
    predictor = ISTDPredictor(cfg)
    found = predictor(gray)
    np.testing.assert_allclose(found["probability"], expected["probability"].numpy(), atol=1e-6)
    assert predictor.threshold == 0.02
    mask = found["probability"] > 0.02
    assert sum(one.area for one in found["detections"]) == mask.sum()
    assert ISTDPredictor(cfg, threshold=1.0)(gray)["detections"] == []


def test_a_file_predicts_like_the_checkpoint(trained, tmp_path):
    _, cfg = trained
    predictor = ISTDPredictor(cfg, tile=48, overlap=16)
    export_student(build_network("ALCNet"), predictor.runner.recipe, tmp_path / "other.onnx")
    other = ISTDPredictor.from_file(tmp_path / "other.onnx", tile=48, overlap=16)
    assert other.runner.recipe == predictor.runner.recipe and other.threshold == 0.02
    gray = np.random.default_rng(0).uniform(0, 255, (50, 100)).astype(np.float32)
    assert other.probability(gray).shape == predictor.probability(gray).shape == (50, 100)


def test_color_is_opencv_s(bright):
    color = np.zeros((6, 5, 3), np.uint8)
    color[..., 2] = 200  # red
    np.testing.assert_allclose(bright().probability(color), round(0.299 * 200) / 255, atol=1e-6)


def test_every_pixel_of_a_large_image_is_predicted(bright):
    gray = np.random.default_rng(0).uniform(1, 255, (1080, 1918)).astype(np.float32)
    found = bright(tile=512, overlap=64).probability(gray)
    np.testing.assert_allclose(found, gray / 255, atol=1e-6)


def test_a_dark_image_has_no_detection(bright):
    found = bright()(np.zeros((9, 9), np.float32))
    assert found["detections"] == [] and not found["probability"].any()


def test_arrays_of_any_scale_and_shape(bright):
    gray = np.random.default_rng(0).integers(0, 40, (40, 56)).astype(np.uint8)
    gray[10:13, 20:23] = [[150, 200, 150], [200, 255, 200], [150, 200, 150]]
    gray[0, :2] = 0
    expected = bright()(gray)
    assert [one.area for one in expected["detections"]] == [9]
    shares, counts = (gray / 255).astype(np.float32), 7000 + 4 * gray.astype(np.uint16)
    for image in (
        gray[None],
        gray[..., None],
        gray.astype(np.float64),
        shares,
        counts,
        280 + shares * 20,
        counts[None],
    ):
        assert [one.centroid for one in bright()(image)["detections"]] == [(21.0, 11.0)]
        assert bright().probability(image).shape == gray.shape
    for value_range, level in (("percentiles", 1.0), ("7000..8020", 1.0), ("type", 8020 / 65535), ("0..16040", 0.5)):
        assert bright(value_range=value_range).probability(counts).max() == pytest.approx(level, abs=1e-3)
    with pytest.raises(ValueError, match=r"the image has the shape \(2, 40, 56\)"):
        bright()(np.zeros((2, 40, 56), np.uint8))
    with pytest.raises(ValueError, match="range of raw values .ISTD.INPUT.RANGE. is"):
        bright(value_range="16 bit")


def test_the_range_of_a_training_is_the_predictor_s(trained, istd_cfg):
    cfg = istd_cfg("alcnet_full", MODEL__WEIGHTS=trained[1].MODEL.WEIGHTS, ISTD__INPUT__RANGE="7000..8000")
    assert ISTDPredictor(cfg).value_range == ISTDPredictor(cfg).runner.recipe.value_range == "7000..8000"
    assert ISTDPredictor(cfg, value_range="type").value_range == "type"
