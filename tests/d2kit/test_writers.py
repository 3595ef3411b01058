"""Figures of a training go to a table and to Weights & Biases."""

import sys
from types import SimpleNamespace

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.events import EventStorage

from d2kit.writers import CSVWriter, build_writers


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    cfg.WRITERS = CfgNode({"CSV": False, "WANDB": ""})
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


def train(writers, start, losses):
    with EventStorage(start) as storage:
        for loss in losses:
            storage.put_scalar("loss", loss, smoothing_hint=False)
            if storage.iter == 1:
                storage.put_scalar("AP", 0.5, smoothing_hint=False)
            for writer in writers:
                writer.write()
            storage.step()
    for writer in writers:
        writer.close()


def test_by_default_there_are_none(cfg):
    assert build_writers(cfg) == []


def test_a_table_has_each_figure_once_and_is_continued(cfg, tmp_path):
    cfg.WRITERS.CSV = True
    train(build_writers(cfg), 0, [2.0, 1.5])
    train([CSVWriter(tmp_path / "metrics.csv")], 2, [1.25])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == ["iteration,name,value", "0,loss,2.0", "1,AP,0.5", "1,loss,1.5", "2,loss,1.25"]


def test_weights_and_biases_get_each_figure_once(cfg, tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(
        log=lambda figures, step: calls.append((step, figures)), finish=lambda: calls.append("finished")
    )
    asked = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: asked.update(options) or run))
    cfg.WRITERS.WANDB = "cells"
    train(build_writers(cfg), 0, [2.0, 1.5])
    assert calls == [(0, {"loss": 2.0}), (1, {"loss": 1.5, "AP": 0.5}), "finished"]
    assert asked["project"] == "cells" and asked["dir"] == str(tmp_path)
    assert asked["config"]["WRITERS"] == {"CSV": False, "WANDB": "cells"}


def test_a_missing_wandb_is_one_sentence(cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    cfg.WRITERS.WANDB = "cells"
    with pytest.raises(ImportError, match=r"wandb is not installed: `pip install wandb`"):
        build_writers(cfg)
