"""S4MPredictor answers as the trained network does, and names what is wrong with a run."""

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from s4m.deploy.predictor import RunDetector, S4MPredictor


def write_run(cfg: CfgNode, folder, *names):
    """Write config.yaml and checkpoints of a model with random weights; return the model of the last."""
    cfg.OUTPUT_DIR = str(folder)
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump())
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        model = build_model(cfg)
        if model.teacher is not None:
            torch.manual_seed(seed + 100)
            with torch.no_grad():
                for parameter in model.teacher.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        torch.save({"model": model.state_dict(), "iteration": seed}, folder / name)
    return model.eval()


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)


def reference(model, network, cfg, image):
    """What the network of a TeacherStudent answers by Detectron2's own conventions."""
    model.evaluate = network
    resized = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST).get_transform(image)
    pixels = image if cfg.INPUT.FORMAT == "BGR" else image[:, :, ::-1]
    tensor = torch.as_tensor(resized.apply_image(pixels).astype("float32").transpose(2, 0, 1))
    with torch.no_grad():
        return model([{"image": tensor, "height": image.shape[0], "width": image.shape[1]}])[0]["instances"]


@pytest.mark.parametrize("student", ["rcnn", "mask2former"])
def test_student_and_teacher_answer_as_in_evaluation(small_cfg, tiny_mask2former, tmp_path, image, student):
    if student == "mask2former":
        pytest.importorskip("transformers")
        cfg = small_cfg("mask2former_stage2", **tiny_mask2former)
    else:
        cfg = small_cfg("stage2", MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.0)
    cfg.INPUT.FORMAT = "RGB"
    model = write_run(cfg, tmp_path / "run", "model_best.pth")
    answers = {}
    for network in ("student", "teacher"):
        predictor = S4MPredictor.from_run(tmp_path / "run", network)
        found = predictor(image)["instances"]
        expected = reference(model, network, cfg, image)
        assert isinstance(predictor, DefaultPredictor) and predictor.network == network
        assert len(found) == len(expected) > 0 and found.image_size == (50, 70)
        assert torch.equal(found.scores, expected.scores) and torch.equal(found.pred_classes, expected.pred_classes)
        assert torch.equal(found.pred_masks, expected.pred_masks) and found.pred_masks.dtype == torch.bool
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        answers[network] = found.scores
        detected = RunDetector(predictor)(image)
        assert detected.mask.shape == (len(found), 50, 70) and detected.xyxy.dtype == np.float32
        np.testing.assert_array_equal(detected.confidence, found.scores.numpy())
    assert not torch.equal(answers["student"], answers["teacher"])
    assert predictor.class_names == ["circle", "square", "triangle", "hexagon", "ellipse"]


def test_the_best_checkpoint_is_taken_then_the_newest(small_cfg, tmp_path, caplog):
    folder = tmp_path / "run"
    write_run(small_cfg("supervised", semi=False), folder, "model_0000001.pth", "model_best.pth")
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    with caplog.at_level("INFO", "s4m"):
        assert S4MPredictor.from_run(folder).cfg.MODEL.WEIGHTS == str(folder / "model_best.pth")
    assert f"The predictor is the student of {folder / 'model_best.pth'}." in caplog.text
    (folder / "model_best.pth").unlink()
    assert S4MPredictor.from_run(folder).cfg.MODEL.WEIGHTS == str(folder / "model_0000001.pth")
    with pytest.raises(ValueError, match="model_0000001.pth' holds no teacher"):
        S4MPredictor.from_run(folder, "teacher")
    (folder / "last_checkpoint").unlink()
    (folder / "model_0000001.pth").unlink()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        S4MPredictor.from_run(folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="is no folder of a training: it holds no config.yaml"):
        S4MPredictor.from_run(folder)


def test_classes_without_the_data_set(small_cfg, tmp_path, caplog):
    cfg = small_cfg("supervised", semi=False)
    write_run(cfg, tmp_path / "run", "model_best.pth")
    text = (tmp_path / "run" / "config.yaml").read_text().replace("coco:", "coco:/elsewhere")
    (tmp_path / "run" / "config.yaml").write_text(text)
    assert S4MPredictor.from_run(tmp_path / "run").class_names == ["0", "1", "2", "3", "4"]
    assert "their data set is absent" in caplog.text
    names = ["a", "b", "c", "d", "e"]
    assert S4MPredictor.from_run(tmp_path / "run", class_names=names).class_names == names
    with pytest.raises(ValueError, match="the network has 5 classes, but there are 2 names for them"):
        S4MPredictor.from_run(tmp_path / "run", class_names=names[:2])
    path = tmp_path / "run" / "model_best.pth"
    torch.save(torch.load(path, weights_only=True) | {"trainer": {"classes": names}}, path)
    assert S4MPredictor.from_run(tmp_path / "run").class_names == names


def test_a_checkpoint_of_another_network(small_cfg, tmp_path):
    write_run(small_cfg("supervised", semi=False), tmp_path / "run", "model_best.pth")
    text = (tmp_path / "run" / "config.yaml").read_text().replace("FC_DIM: 32", "FC_DIM: 48")
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="model_best.pth' does not fit the configured network: .*box_head"):
        S4MPredictor.from_run(tmp_path / "run")
