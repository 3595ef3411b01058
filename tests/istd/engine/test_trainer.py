"""The trainer: exact resume after a kill, selection, the single final test, errors."""

import argparse
import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from d2kit import files, launcher
from istd.commands.train import TRAINING
from istd.engine.data import TrainingData
from istd.engine.trainer import ISTDTrainer
from istd.pseudo_masks.state import saved_versions

ROOT = Path(__file__).resolve().parents[3]


def start(cfg, resume: bool = False) -> ISTDTrainer:
    torch.manual_seed(0)
    trainer = ISTDTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def train_with_tool(run_python, istd_options, config, output, log, wait=True):
    options = istd_options(OUTPUT_DIR=str(output), ISTD__SCHEDULE__EPOCHS=5, ISTD__SCHEDULE__EMA_DECAY=0.9)
    return run_python("tools/train_net.py", *config, "--resume", *options, log=log, wait=wait)


def assert_same_labels(one: dict, other: dict) -> None:
    for key, value in one.items():
        assert torch.equal(other[key], value) if isinstance(value, torch.Tensor) else other[key] == value, key


def test_a_killed_run_resumes_to_the_same_result(run_python, istd_options, istd_arguments, tmp_path):
    config = istd_arguments("quick_semantic_prior")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_with_tool(run_python, istd_options, config, whole, tmp_path / "whole.log")
    process = train_with_tool(run_python, istd_options, config, killed, tmp_path / "killed.log", wait=False)
    deadline = time.monotonic() + 240
    # The masks of version 3 are written before the checkpoint of their epoch: the kill lands between or soon after.
    while not (killed / "pseudo_masks" / "masks-000003.npz").is_file() and time.monotonic() < deadline:
        assert process.poll() is None, (tmp_path / "killed.log").read_text()[-2000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "model_final.pth").exists()
    train_with_tool(run_python, istd_options, config, killed, tmp_path / "killed.log")
    one, two = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (whole, killed))
    for key, value in one["model"].items():
        assert torch.equal(two["model"][key], value), key
    hooks, again = one["trainer"]["hooks"], two["trainer"]["hooks"]
    assert_same_labels(hooks["LabelEvolution"], again["LabelEvolution"])
    assert torch.equal(hooks["OuterStep"]["alpha"], again["OuterStep"]["alpha"])
    for first, second in zip(
        hooks["OuterStep"]["optimizer"]["state"].values(),
        again["OuterStep"]["optimizer"]["state"].values(),
        strict=True,
    ):
        assert torch.equal(first["exp_avg"], second["exp_avg"])
    results = [json.loads((folder / "test" / "results.json").read_text()) for folder in (whole, killed)]
    assert results[0] == results[1]


class Killed(BaseException):
    """Ends a training in the middle of what it does."""


@pytest.fixture(scope="module")
def whole_run(istd_cfg, tmp_path_factory) -> dict:
    """The last checkpoint of a training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    start(istd_cfg("quick_pal", OUTPUT_DIR=str(folder), ISTD__SCHEDULE__EPOCHS=3)).train()
    return torch.load(folder / "model_final.pth", weights_only=True)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("file", ["masks-000001.npz", "masks-000002.npz", "model_0000003.pth", "last_checkpoint"])
def test_killed_at_each_step_of_an_update(whole_run, istd_cfg, tmp_path, monkeypatch, file, after):
    replace, written = os.replace, []

    def replace_and_die(source, target):
        if os.path.basename(target) == file and (file != "last_checkpoint" or written.count(file) == 1):
            if after:
                replace(source, target)
            raise Killed
        written.append(os.path.basename(target))
        replace(source, target)

    cfg = istd_cfg("quick_pal", OUTPUT_DIR=str(tmp_path), ISTD__SCHEDULE__EPOCHS=3)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files.os, "replace", replace_and_die)
        start(cfg).train()
    start(cfg, resume=True).train()
    resumed = torch.load(tmp_path / "model_final.pth", weights_only=True)
    for key, value in whole_run["model"].items():
        assert torch.equal(resumed["model"][key], value), key
    assert_same_labels(*(run["trainer"]["hooks"]["LabelEvolution"] for run in (whole_run, resumed)))


def test_workers_see_the_masks_of_the_last_update(istd_cfg, tmp_path):
    def losses(name, workers):
        more = {"DATALOADER__NUM_WORKERS": workers, "ISTD__SCHEDULE__EPOCHS": 3, "OUTPUT_DIR": str(tmp_path / name)}
        start(istd_cfg("quick_pal", **more)).train()
        return torch.load(tmp_path / name / "model_final.pth", weights_only=True)

    alone, helped = losses("alone", 0), losses("helped", 2)
    assert all(torch.equal(helped["model"][key], value) for key, value in alone["model"].items())


def test_scam_learns_at_a_rate_of_its_own_and_resumes(istd_cfg, tmp_path):
    options = {"OUTPUT_DIR": str(tmp_path), "SOLVER__BASE_LR": 0.01, "SOLVER__BASE_LR_END": 0.002}
    cfg = istd_cfg(ISTD__OUTER__STEPS=1, **options)
    trainer = start(cfg)

    def rates(trainer):
        scam = {id(parameter) for parameter in trainer.network.scam.parameters()}
        found = {True: set(), False: set()}
        for group in trainer.optimizer.param_groups:
            for parameter in group["params"]:
                found[id(parameter) in scam].add(group["lr"])
        return found[True], found[False]

    assert rates(trainer) == ({0.001}, {0.01}) and trainer.optimizer.param_groups[0]["lr"] == 0.01
    trainer.train()
    (scam,), (network,) = rates(trainer)
    assert 0 < network < 0.01 and scam == pytest.approx(network / 10)
    assert '"scam/gate": ' in (tmp_path / "metrics.json").read_text()
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    resumed = start(cfg, resume=True)
    assert resumed.start_iter == 2
    resumed.train()
    assert rates(resumed) == ({scam}, {network})
    for off in (0.0, None):
        assert rates(ISTDTrainer(istd_cfg(ISTD__SCAM__LR=off, **options))) == ({0.01}, {0.01})


def test_the_test_set_is_scored_once(istd_cfg, tmp_path, monkeypatch):
    cfg = istd_cfg("quick_pal", OUTPUT_DIR=str(tmp_path))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    scored = []
    test = ISTDTrainer.test.__func__
    monkeypatch.setattr(ISTDTrainer, "test", classmethod(lambda cls, *a: scored.append(1) or test(cls, *a)))
    start(cfg).train()
    assert scored == [1]
    assert json.loads((tmp_path / "test" / "results.json").read_text())["checkpoint"] == "model_best.pth"
    report = (tmp_path / "report.html").read_text()
    assert "<th>test, sirst:" in report and "data:image/jpeg" in report and "left out" not in report
    start(cfg, resume=True).train()
    assert scored == [1]


@pytest.fixture
def loggers(monkeypatch):
    """The launcher gives loggers handlers of their own, which go again."""
    for name in ("s4m", "istd", "d2kit", "detectron2", "fvcore"):
        one = logging.getLogger(name)
        monkeypatch.setattr(one, "handlers", one.handlers[:])
        monkeypatch.setattr(one, "propagate", one.propagate)


def test_evaluation_alone_leaves_the_final_test_be(loggers, istd_options, istd_arguments, scenes, tmp_path):
    def main(*flags, **more):
        options = istd_options(OUTPUT_DIR=str(tmp_path), ISTD__SCHEDULE__EPOCHS=1, **more)
        command = [*flags, *istd_arguments("quick_pal"), *options]
        parser = argparse.ArgumentParser()
        launcher.add_arguments(parser)
        return launcher.run_process(TRAINING, parser.parse_args([str(item) for item in command]))

    main()
    final = {path: path.read_bytes() for path in (tmp_path / "test").iterdir()}
    assert len(final) >= 2 and not (tmp_path / "eval").exists()
    other = (scenes.val,)
    main("--eval-only", DATASETS__TEST=other, MODEL__WEIGHTS=str(tmp_path / "model_best.pth"))
    main("--eval-only", "--resume", DATASETS__TEST=(*other, scenes.test))
    assert {path: path.read_bytes() for path in (tmp_path / "test").iterdir()} == final
    found = sorted(str(path.relative_to(tmp_path / "eval")) for path in (tmp_path / "eval").rglob("istd.json"))
    assert found == ["model_best/istd.json", "model_final/0/istd.json", "model_final/1/istd.json"]


def test_selection_by_masks_points_or_the_teacher(istd_cfg, tmp_path):
    def metric(**more):
        return ISTDTrainer(istd_cfg(OUTPUT_DIR=str(tmp_path), **more)).selection_metric

    assert metric() == "istd/IoU"
    assert metric(ISTD__TEST__SELECT="teacher", ISTD__TEST__SELECT_BY="points") == "istd_teacher_points/F1"


def test_points_select_where_there_are_no_masks(istd_cfg, scenes, tmp_path):
    bare = (f"{scenes.val}:masks=",)
    cfg = istd_cfg("quick_pal", OUTPUT_DIR=str(tmp_path), DATASETS__VALIDATION=bare)
    trainer = start(cfg)
    assert trainer.selection_metric == "istd_points/F1"
    assert "F1" in trainer.validate()["istd_points"]


def test_points_select_where_a_mask_is_missing(istd_cfg, scenes, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("istd"), "propagate", True)
    mixed = (scenes.val, f"{scenes.test}:masks=")
    cfg = istd_cfg("quick_pal", OUTPUT_DIR=str(tmp_path), DATASETS__VALIDATION=mixed)
    trainer = start(cfg)
    assert trainer.selection_metric == "istd_points/F1"
    found = trainer.validate()
    assert found["istd_points"]["images"] == 4 and "istd" not in found
    warnings = [text for text in caplog.messages if text.startswith("2 of 4 validation images have no mask")]
    assert len(warnings) == 1 and warnings[0].endswith("selected by points.")
    bare = (f"{scenes.val}:points=", f"{scenes.test}:masks=")
    outer = {"DATASETS__VALIDATION": bare, "OUTPUT_DIR": str(tmp_path)}
    assert ISTDTrainer(istd_cfg("quick_pal", **outer)).selection_metric == "istd/IoU"


def test_a_new_run_forgets_the_old_one(istd_cfg, tmp_path):
    cfg = istd_cfg("quick_pal", OUTPUT_DIR=str(tmp_path))
    start(cfg).train()
    trainer = start(cfg)
    trainer.before_train()
    assert trainer.data.labels.masks.version == 0
    assert [path.name for path in saved_versions(trainer.data.labels.folder)] == ["masks-000000.npz"]
    for name in ("model_best.pth", "model_final.pth", "last_checkpoint", "test/results.json"):
        assert not (tmp_path / name).exists() and (tmp_path / "earlier_1" / name).is_file()


def test_what_is_missing_is_named(istd_cfg, scenes, tmp_path):
    def data(name="quick_pal", **more):
        return TrainingData(istd_cfg(name, OUTPUT_DIR=str(tmp_path), **more))

    with pytest.raises(FileNotFoundError, match="DATASETS.TRAIN: .*none.txt"):
        data(DATASETS__TRAIN=(f"sirst:{scenes.root}:none.txt",))
    with pytest.raises(ValueError, match="DATASETS.TRAIN has no image"):
        data(DATASETS__TRAIN=())
    with pytest.raises(ValueError, match="set DATASETS.VALIDATION"):
        data("quick_semantic_prior", DATASETS__VALIDATION=())
    with pytest.raises(ValueError, match="has no points"):
        data(DATASETS__TRAIN=(f"{scenes.train}:points=",))


def test_an_image_that_is_in_no_cluster_is_named(istd_cfg, tmp_path):
    table = tmp_path / "clusters.json"
    table.write_text('{"format": 1, "num_clusters": 1, "features": [], "clusters": {"other": 0}}')
    with pytest.raises(KeyError, match="scene_.*clusters.json"):
        TrainingData(istd_cfg(OUTPUT_DIR=str(tmp_path), ISTD__CLUSTERS__FILE=str(table)))


def test_clusters_that_a_run_made_are_of_its_own_images_and_range(istd_cfg, scenes, tmp_path):
    shutil.copytree(scenes.root, tmp_path / "copy")
    (tmp_path / "link").symlink_to(scenes.root)

    def files(root=scenes.root, **more):
        names = {key: (f"sirst:{root}:{split}.txt",) for key, split in (("TRAIN", "train"), ("VALIDATION", "val"))}
        names = {f"DATASETS__{key}": value for key, value in names.items()}
        TrainingData(istd_cfg(OUTPUT_DIR=str(tmp_path / "run"), **names, **more))
        return len(list((tmp_path / "run").glob("clusters-*.json")))

    assert [files(), files(), files(tmp_path / "link")] == [1, 1, 1]
    assert [files(ISTD__INPUT__RANGE="type"), files(tmp_path / "copy")] == [2, 3]
