"""S4M under Detectron2's own DefaultTrainer: a short script, and no script at all."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

SCRIPT = Path(__file__).parents[1] / "docs" / "examples" / "plain_detectron2.py"
CONFIG = Path(__file__).parents[1] / "configs" / "quick" / "shapes_stage2.yaml"


def losses(folder):
    logged = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    return {key for key in logged if key.startswith("loss_")}


def test_the_example_trains_from_unlabeled_images(small_options, tmp_path, monkeypatch):
    assert len(SCRIPT.read_text().splitlines()) < 45
    short = {"SOLVER__MAX_ITER": 2, "SOLVER__CHECKPOINT_PERIOD": 1, "DATASETS__TEST": ()}
    options = small_options(semi=True, S4M__TEACHER__EMA_DECAY=0.75, **short)
    arguments = ["--config-file", CONFIG, "OUTPUT_DIR", tmp_path, *options]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert {"loss_mask", "loss_mask_pseudo"} <= losses(tmp_path)
    first, last = (torch.load(tmp_path / f"model_{n}.pth", weights_only=True)["model"] for n in ("0000000", "final"))
    name = "backbone.fpn_output2.weight"
    old, student, new = first[f"teacher.{name}"], last[f"student.{name}"], last[f"teacher.{name}"]
    torch.testing.assert_close(new, 0.75 * old + 0.25 * student)
    assert not torch.equal(new, old)


def run_example(monkeypatch, folder, options):
    monkeypatch.setattr(
        sys, "argv", [str(SCRIPT), "--config-file", str(CONFIG), "OUTPUT_DIR", str(folder), *map(str, options)]
    )
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_example_starts_from_the_teacher_of_stage_one(small_options, small_cfg, tmp_path, monkeypatch):
    torch.manual_seed(7)
    student = build_model(small_cfg()).student.state_dict()
    torch.save({"model": {f"student.{key}": value for key, value in student.items()}}, tmp_path / "stage1.pth")
    short = {"SOLVER__MAX_ITER": 1, "DATASETS__TEST": (), "S4M__TEACHER__BURN_IN": 5}
    options = small_options(semi=True, **short)
    run_example(monkeypatch, tmp_path / "out", [*options, "S4M.TEACHER.WEIGHTS", tmp_path / "stage1.pth"])
    found = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    for key, value in student.items():
        assert torch.equal(found[f"teacher.{key}"], value), key
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        run_example(monkeypatch, tmp_path / "other", [*options, "S4M.TEACHER.WEIGHTS", tmp_path / "nowhere.pth"])


def test_training_without_the_teacher_that_was_asked_for_is_refused(small_cfg, tmp_path):
    model = build_model(small_cfg(S4M__TEACHER__WEIGHTS=str(tmp_path / "stage1.pth"))).train()
    weak = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "seed": 0}
    with pytest.raises(RuntimeError, match=r"stage1\.pth' was never loaded: call s4m\.engine\.weights\.load_teacher"):
        model({"labeled": [], "unlabeled": [weak]})
    model.load_state_dict(model.state_dict())
    with EventStorage():
        assert model({"labeled": [], "unlabeled": [weak]})


def test_default_trainer_as_it_is_trains_supervised(small_cfg, tmp_path):
    cfg = small_cfg(
        "stage1", semi=False, SOLVER__MAX_ITER=2, DATASETS__TEST=(), OUTPUT_DIR=str(tmp_path)
    )
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert losses(tmp_path) == {
        *("loss_cls", "loss_box_reg", "loss_mask"),
        "loss_rpn_cls",
        "loss_rpn_loc",
        "loss_structure",
    }
    assert (tmp_path / "model_final.pth").exists()
