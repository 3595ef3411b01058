"""The launcher in this process: what it makes of arguments, and evaluation alone."""

import argparse
import logging
import os

import pytest
import torch

from d2kit import launcher
from d2kit.checkpoint import AtomicCheckpointer
from d2kit.config_files import named_architecture
from s4m.commands.train import TRAINING
from s4m.engine.trainer import S4MTrainer


@pytest.fixture(autouse=True)
def loggers():
    """The launcher gives our loggers handlers of their own: take them away again."""
    names = ("s4m", "istd", "d2kit", "detectron2", "fvcore")
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers[:], logging.getLogger(name).propagate = handlers, propagate


@pytest.fixture
def arguments(small_options, run_arguments, tmp_path):
    """Function (flags, configuration, options) -> parsed arguments of a run in `tmp_path`."""

    def make(*flags, config="mean_teacher", semi=True, **options):
        options = {"SOLVER__MAX_ITER": 1, "TEST__EVAL_PERIOD": 1, "OUTPUT_DIR": str(tmp_path / "run"), **options}
        files, own = run_arguments(config)
        command = [*flags, *files, *own, *small_options(semi=semi, **options)]
        parser = argparse.ArgumentParser()
        launcher.add_arguments(parser)
        return parser.parse_args([str(item) for item in command])

    return make


def test_trains_then_evaluates_the_last_checkpoint(arguments, tmp_path, capsys, monkeypatch):
    trained = {}
    test = S4MTrainer.test.__func__

    def remember(cls, cfg, model, evaluators=None):
        results = test(cls, cfg, model, evaluators)
        trained.setdefault("results", results)
        return results

    monkeypatch.setattr(S4MTrainer, "test", classmethod(remember))
    launcher.run_process(TRAINING, arguments(S4M__TEACHER__BURN_IN=1))
    found = launcher.run_process(TRAINING, arguments("--eval-only", "--resume"))
    assert list(found) == ["student", "teacher"]
    assert str(found) == str(trained["results"])  # figures of sizes that do not occur are NaN, which equals nothing
    printed = capsys.readouterr().out
    assert "Results of student" in printed and "Results of teacher" in printed
    assert "copypaste: Task: segm" in printed
    assert "Burn-in ends after iteration 0" in (tmp_path / "run" / "log.txt").read_text()


def test_evaluates_weights_of_a_first_stage_in_both_networks(arguments, tmp_path):
    first = tmp_path / "first"
    stage1 = arguments(config="supervised", semi=False, OUTPUT_DIR=str(first), TEST__EVAL_PERIOD=0)
    launcher.run_process(TRAINING, stage1)
    found = launcher.run_process(TRAINING, arguments("--eval-only", MODEL__WEIGHTS=str(first / "model_final.pth")))
    assert str(found["student"]) == str(found["teacher"])


def test_an_evaluation_takes_the_named_the_best_or_the_last_checkpoint(tmp_path):
    checkpointer = AtomicCheckpointer(torch.nn.Linear(2, 1), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"no network to evaluate: OUTPUT_DIR '{tmp_path}' holds no checkpoint"):
        launcher.weights_to_evaluate("", checkpointer, False)
    assert launcher.weights_to_evaluate("given.pth", checkpointer, True) == "given.pth"
    checkpointer.save("model_0000003")
    last, best = (str(tmp_path / f"model_{name}.pth") for name in ("0000003", "best"))
    assert launcher.weights_to_evaluate("", checkpointer, False) == last
    checkpointer.save("model_best")
    assert launcher.weights_to_evaluate("", checkpointer, False) == best
    assert launcher.weights_to_evaluate("given.pth", checkpointer, False) == "given.pth"
    assert launcher.weights_to_evaluate("given.pth", checkpointer, True) == last
    checkpointer.save("model_0000005")
    (tmp_path / "last_checkpoint").unlink()  # Only a resumption needs it.
    assert launcher.weights_to_evaluate("given.pth", checkpointer, False) == "given.pth"
    assert launcher.weights_to_evaluate("", checkpointer, False) == best


def test_an_evaluation_of_random_weights_is_refused(arguments, tmp_path):
    with pytest.raises(FileNotFoundError, match="no network to evaluate"):
        launcher.run_process(TRAINING, arguments("--eval-only", config="supervised", semi=False))
    backbone = tmp_path / "backbone.pth"
    torch.save({"model": {"student.backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}}, backbone)
    weights = {"MODEL__WEIGHTS": str(backbone)}
    with pytest.raises(ValueError, match=f"'{backbone}' lacks .* weights of the network"):
        launcher.run_process(TRAINING, arguments("--eval-only", config="supervised", semi=False, **weights))


def test_setup_scales_draws_a_seed_and_falls_back_to_the_cpu(arguments, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = {"SEED": -1, "MODEL__DEVICE": "cuda", "SOLVER__REFERENCE_BATCH": 4, "SOLVER__MAX_ITER": 10}
    logging.getLogger("detectron2").propagate = True
    with caplog.at_level(logging.WARNING):
        cfg = launcher.set_up(TRAINING, arguments(**options))
    assert cfg.SEED >= 0 and cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.MAX_ITER == 20 and cfg.is_frozen()
    assert "There is no CUDA device" in caplog.text
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert "MAX_ITER: 20" in written and "\nS4M:" in written and "\nISTD:" not in written


def test_an_evaluation_leaves_the_configuration_of_the_training(arguments, tmp_path):
    path = tmp_path / "run" / "config.yaml"
    launcher.set_up(TRAINING, arguments("--eval-only", SEED=2))
    assert "\nSEED: 2\n" in path.read_text()
    launcher.set_up(TRAINING, arguments(SEED=1))
    launcher.set_up(TRAINING, arguments("--eval-only", SEED=2))
    assert "\nSEED: 1\n" in path.read_text()


def test_a_resume_that_is_refused_leaves_the_configuration_of_the_training(arguments, tmp_path):
    path = tmp_path / "run" / "config.yaml"
    options = {"config": "supervised", "semi": False, "TEST__EVAL_PERIOD": 0}
    launcher.run_process(TRAINING, arguments(SEED=1, **options))
    with pytest.raises(ValueError, match="SEED"):
        launcher.run_process(TRAINING, arguments("--resume", SEED=2, **options))
    assert "\nSEED: 1\n" in path.read_text()
    launcher.run_process(TRAINING, arguments("--resume", SEED=1, TEST__DETECTIONS_PER_IMAGE=7, **options))
    assert "DETECTIONS_PER_IMAGE: 7" in path.read_text()


def test_key_that_does_not_exist_is_refused(arguments):
    with pytest.raises(KeyError, match="S4M.PR.POINT"):
        launcher.set_up(TRAINING, arguments(S4M__PR__POINT=3))


def test_a_configuration_of_the_other_package_is_named(arguments):
    parsed = arguments()
    parsed.config_file = "istd/networks/alcnet.yaml"
    with pytest.raises(KeyError, match="keys of s4m .*the architecture PointSupervisedISTD"):
        launcher.compose(TRAINING, parsed)


@pytest.mark.parametrize("key", ["TRAIN", "UNLABELED", "TEST"])
def test_data_set_that_is_absent_is_named_by_its_key(arguments, key):
    with pytest.raises(FileNotFoundError, match=f"DATASETS.{key}.*absent.json.* does not exist"):
        launcher.set_up(TRAINING, arguments(**{f"DATASETS__{key}": ("coco:absent.json:images",)}))


def test_the_architecture_is_that_of_the_last_file_or_option_that_names_one():
    files = ["istd/networks/acm.yaml", "istd/schemes/pal.yaml"]
    assert named_architecture(files) == "PointSupervisedISTD"
    assert named_architecture([*files, "quick/shapes_stage1.yaml"]) == "TeacherStudent"
    assert named_architecture(files, ["SEED", "1", "MODEL.META_ARCHITECTURE", "Other"]) == "Other"


@pytest.mark.parametrize(("device", "seen"), [("cpu", ""), ("cuda", "0,1")])
def test_processes_on_the_cpu_see_no_gpu(arguments, monkeypatch, device, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(launcher, "launch", lambda *args, **options: None)
    launcher.launch_training(TRAINING, arguments("--num-gpus", "2", MODEL__DEVICE=device))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
