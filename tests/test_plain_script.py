"""S4M under Detectron2's own DefaultTrainer: a short script, and no script at all."""

import json
import runpy
import sys
from pathlib import Path

import torch
from detectron2.engine import DefaultTrainer

SCRIPT = Path(__file__).parents[1] / "docs" / "examples" / "plain_detectron2.py"
CONFIG = Path(__file__).parents[1] / "configs" / "quick" / "shapes_student.yaml"


def losses(folder):
    logged = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    return {key for key in logged if key.startswith("loss_")}


def test_the_example_trains_from_unlabelled_images(small_options, tmp_path, monkeypatch):
    assert len(SCRIPT.read_text().splitlines()) < 35
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


def test_default_trainer_as_it_is_trains_supervised(small_cfg, tmp_path):
    cfg = small_cfg(
        "quick/shapes_teacher.yaml", semi=False, SOLVER__MAX_ITER=2, DATASETS__TEST=(), OUTPUT_DIR=str(tmp_path)
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
