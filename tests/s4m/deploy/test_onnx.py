"""An exported Mask R-CNN answers in ONNX Runtime as in PyTorch, without PyTorch and Detectron2."""

import json
import subprocess
import sys
from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model

from s4m.deploy.export import export_onnx, make_recipe
from s4m.deploy.onnx_predictor import OnnxPredictor, paste
from s4m.deploy.predictor import RunDetector, S4MPredictor
from s4m.deploy.recipe import read_metadata

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NAMES = ["circle", "square", "triangle", "hexagon", "ellipse"]
SIZES = [(100, 135), (50, 70), (200, 90), (64, 64), (33, 300)]
PLAIN = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "detectron2", "torchvision"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Block())
from s4m.cli import main
sys.exit(main(["predict", sys.argv[1], "--model", sys.argv[2], "--output", sys.argv[3], "--threshold", "0.1"]))
"""


@pytest.fixture(scope="module")
def exported(small_cfg, tmp_path_factory):
    """The predictor of a network with random weights, and its file."""
    folder = tmp_path_factory.mktemp("exported")
    cfg = small_cfg("supervised", semi=False)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.21
    torch.manual_seed(3)
    model = build_model(cfg)
    # Scores differ, and masks are not 0.5 all over.
    for layer in (model.student.roi_heads.box_predictor.cls_score, model.student.roi_heads.mask_head.predictor):
        torch.nn.init.normal_(layer.weight, std=0.5)
    torch.save({"model": model.state_dict()}, folder / "model_best.pth")
    cfg.MODEL.WEIGHTS = str(folder / "model_best.pth")
    predictor = S4MPredictor(cfg, "student", NAMES)
    path = folder / "student.onnx"
    export_onnx(predictor.model, make_recipe(cfg, NAMES), path)
    return predictor, path


def picture(height, width):
    return np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8)


def require_same(found, wanted):
    """Require boxes within 1e-3 pixels and masks of an IoU of 0.999 or more."""
    np.testing.assert_allclose(found.xyxy, wanted.xyxy, atol=1e-3)
    np.testing.assert_allclose(found.confidence, wanted.confidence, atol=1e-5)
    np.testing.assert_array_equal(found.class_id, wanted.class_id)
    union = (found.mask | wanted.mask).sum((1, 2))
    assert found.mask.shape == wanted.mask.shape and (union > 0).any()
    ious = (found.mask & wanted.mask).sum((1, 2)) / np.maximum(union, 1)
    assert (ious[union > 0] >= 0.999).all()


@pytest.mark.parametrize("size", SIZES)
def test_answers_are_those_of_pytorch(exported, size):
    predictor, path = exported
    wanted, found = RunDetector(predictor)(picture(*size)), OnnxPredictor(path)(picture(*size))
    assert len(wanted) > 1
    require_same(found, wanted)


def test_an_image_may_have_one_instance_or_none(exported, tmp_path, monkeypatch):
    predictor, _ = exported
    recipe, head = make_recipe(predictor.cfg, NAMES), predictor.model.roi_heads.box_predictor
    monkeypatch.setattr(head, "test_topk_per_image", 1)
    export_onnx(predictor.model, recipe, tmp_path / "one.onnx")
    wanted, found = RunDetector(predictor)(picture(50, 70)), OnnxPredictor(tmp_path / "one.onnx")(picture(50, 70))
    assert len(wanted) == 1
    require_same(found, wanted)
    monkeypatch.setattr(head, "test_score_thresh", 1.0)
    export_onnx(predictor.model, recipe, tmp_path / "none.onnx")
    assert len(OnnxPredictor(tmp_path / "none.onnx")(picture(50, 70))) == 0


def test_the_file_says_how_it_is_fed(exported):
    predictor, path = exported
    recipe = OnnxPredictor(path).recipe
    assert recipe.class_names == NAMES and recipe.format == predictor.cfg.INPUT.FORMAT
    assert (recipe.min_size, recipe.max_size) == (predictor.cfg.INPUT.MIN_SIZE_TEST, predictor.cfg.INPUT.MAX_SIZE_TEST)
    assert recipe.score_threshold == 0.21 and recipe.pixel_mean == list(predictor.cfg.MODEL.PIXEL_MEAN)


def test_s4m_predict_runs_it_without_pytorch_and_detectron2(exported, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), picture(50, 70))
    command = [sys.executable, "-c", PLAIN, tmp_path / "a.png", exported[1], tmp_path / "found"]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    document = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert len(document["annotations"]) == len(OnnxPredictor(exported[1])(picture(50, 70)))
    assert [category["name"] for category in document["categories"]] == NAMES


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"max_size": 10**9}, r"max_size must be an integer in \[1, 16384\]"),
        ({"min_size": True}, "min_size must be"),
        ({"class_names": []}, "class_names must be names"),
        ({"mask_threshold": float("nan")}, "mask_threshold must be"),
        ({"format": "GRAY"}, "format must be BGR or RGB"),
        ({"surprise": 1}, "does not say how its network is fed"),
        (None, "does not say how its network is fed"),
    ],
)
def test_a_wrong_recipe_is_told(exported, change, sentence):
    text = "" if change is None else json.dumps({**asdict(make_recipe(exported[0].cfg, NAMES)), **change})
    with pytest.raises(ValueError, match=f"wrong.onnx' .*{sentence}"):
        read_metadata(text, "wrong.onnx")


def test_other_networks_and_files_are_refused(tmp_path):
    (tmp_path / "torn.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match="torn.onnx' is no ONNX file"):
        OnnxPredictor(tmp_path / "torn.onnx")
    node = onnx.helper.make_node("Identity", ["image"], ["boxes"])
    kind = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("image", "boxes")]
    graph = onnx.helper.make_graph([node], "other", kind[:1], kind[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "other.onnx",
    )
    with pytest.raises(ValueError, match="other.onnx' does not say how its network is fed"):
        OnnxPredictor(tmp_path / "other.onnx")
    with pytest.raises(FileNotFoundError, match="absent.onnx"):
        OnnxPredictor(tmp_path / "absent.onnx")
    with pytest.raises(ValueError, match="neither cpu nor cuda"):
        OnnxPredictor(tmp_path / "torn.onnx", "tpu")


def test_mask2former_is_refused(small_cfg, tiny_mask2former, tmp_path):
    model = build_model(small_cfg("mask2former_stage2", semi=False, **tiny_mask2former)).student
    with pytest.raises(ValueError, match="S4MMask2Former cannot become an ONNX file: only Mask R-CNN can"):
        export_onnx(model, None, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_mask_is_pasted_as_detectron2_does():
    rng = np.random.default_rng(0)
    masks = rng.random((4, 28, 28), np.float32)
    boxes = np.array([[3.2, 4.1, 40.7, 30.9], [0, 0, 50, 40], [20.5, 10.25, 21.0, 10.5], [45, 35, 50, 40]], np.float32)
    wanted = paste_masks_in_image(torch.from_numpy(masks), torch.from_numpy(boxes), (40, 50), threshold=0.5).numpy()
    found = np.stack([paste(mask, box, (40, 50), 0.5) for mask, box in zip(masks, boxes, strict=True)])
    assert (found != wanted).mean() < 1e-4 and wanted.any((1, 2))[[0, 1, 3]].all()
