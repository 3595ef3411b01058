"""Short trainings in this process: evaluation, logs, AMP without a GPU, accumulation, losses that are not finite."""

import json
import logging

import pytest
import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer
from detectron2.engine.hooks import PeriodicWriter

from s4m.engine.trainer import S4MTrainer, best_metric


@pytest.fixture
def make_trainer(small_cfg, tmp_path):
    """Function (configuration, **options) -> a trainer that writes to `tmp_path`."""

    def make(name="mean_teacher", resume=False, **options):
        options = {"SOLVER__MAX_ITER": 2, "SOLVER__STEPS": (), "TEST__EVAL_PERIOD": 0, **options}
        if not options["TEST__EVAL_PERIOD"]:
            options["DATASETS__TEST"] = ()
        cfg = small_cfg(name, OUTPUT_DIR=str(tmp_path / "run"), **options)
        cfg.freeze()
        trainer = S4MTrainer(cfg)
        trainer.resume_or_load(resume=resume)
        return trainer

    return make


class AtStep(HookBase):
    """Calls a function before the step of one iteration."""

    def __init__(self, iteration, action):
        self._iteration, self._action = iteration, action

    def before_step(self):
        if self.trainer.iter == self._iteration:
            self._action()


def test_trains_evaluates_and_logs(make_trainer, tmp_path):
    trainer = make_trainer("stage2", TEST__EVAL_PERIOD=2)
    (tmp_path / "run" / "config.yaml").write_text(trainer.cfg.dump())
    trainer.train()
    results = trainer.test(trainer.cfg, trainer.model)
    assert list(results) == ["student", "teacher"]
    assert all(set(results[name]) == {"bbox", "segm"} for name in results)
    assert trainer.model.training and not trainer.model.teacher.training

    folder = tmp_path / "run"
    logged = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    assert {"student/segm/AP", "teacher/segm/AP", "student/bbox/AP50", "total_loss", "lr"} <= logged.keys()
    assert {"loss_mask_pseudo", "pseudo_labels/refined", "pseudo_labels/targets"} <= logged.keys()
    quality = {key.removeprefix("pseudo_label_quality/") for key in logged if key.startswith("pseudo_label_quality/")}
    assert {"before/iou", "after/iou", "before/precision", "after/recall", "labels", "refined", "rejected"} <= quality
    assert any(key.endswith("/after/iou") for key in quality - {"after/iou"}), "no class of its own"
    assert logged["pseudo_label_quality/labels"] > 0

    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"model_final.pth", "model_best.pth", "model_best.json", "last_checkpoint", "report.html"} <= written
    report = (folder / "report.html").read_text()
    assert f"<td>{logged['teacher/segm/AP']:.5g}</td>" in report and "<h2>Calibration</h2>" in report
    assert "after SAM" in report and "left out" not in report
    assert {f"{name}/inference/coco_instances_results.json" for name in ("student", "teacher")} <= written
    events = b"".join(path.read_bytes() for path in folder.glob("events.out.tfevents.*"))
    assert b"pseudo-labels (left teacher, right refined)" in events
    assert b"pseudo-labels of a test image (left teacher, right refined)" in events


@pytest.mark.parametrize(
    ("metric", "sets", "wanted"),
    [
        ("segm/AP", ("a",), "student/segm/AP"),
        ("bbox/AP-big cat", ("a",), "student/bbox/AP-big cat"),
        ("voc/APr_vol", ("a",), "student/voc/APr_vol"),
        ("segm/AP50", ("a", "coco:b.json:b/c"), "student/a/segm/AP50"),
        ("coco:b.json:b/c/segm/AP50", ("a", "coco:b.json:b/c"), "student/coco:b.json:b/c/segm/AP50"),
    ],
)
def test_the_metric_of_the_best_checkpoint(small_cfg, metric, sets, wanted):
    cfg = small_cfg("stage1", semi=False)
    cfg.S4M.BEST_METRIC, cfg.DATASETS.TEST = metric, sets
    assert best_metric(cfg) == wanted
    cfg.S4M.BEST_METRIC = "segm/APP"
    with pytest.raises(ValueError, match=r"^S4M\.BEST_METRIC is 'segm/APP', but the metrics are"):
        best_metric(cfg)


def test_best_checkpoint_is_by_the_network_that_is_evaluated(make_trainer, monkeypatch, tmp_path):
    trainer = make_trainer(
        TEST__EVAL_PERIOD=1,
        S4M__TEST__NETWORK="teacher",
        S4M__QUALITY_IMAGES=0,
        SOLVER__MAX_ITER=3,
        SOLVER__BASE_LR=1e-4,
    )
    values = iter([(1.0, 9.0), (2.0, 5.0), (3.0, 7.0)])

    def test(cfg, model):
        student, teacher = next(values)
        return {"student": {"segm": {"AP": student}}, "teacher": {"segm": {"AP": teacher}}}

    monkeypatch.setattr(trainer, "test", test)
    trainer.train()
    assert json.loads((tmp_path / "run" / "model_best.json").read_text()) == {"metric": 9.0, "iteration": 0}


def test_resume_makes_up_the_evaluation_that_was_cut_off(make_trainer, monkeypatch, tmp_path):
    options = {"TEST__EVAL_PERIOD": 1, "SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__MAX_ITER": 3, "SOLVER__BASE_LR": 1e-4}

    def train(values, **flags):
        trainer, left = make_trainer(**options, **flags), iter(values)
        monkeypatch.setattr(trainer, "test", lambda cfg, model: {"student": {"segm": {"AP": next(left)}}})
        for hook in trainer._hooks:
            if isinstance(hook, PeriodicWriter):
                hook._period = 1
        trainer.train()

    with pytest.raises(StopIteration):
        train([1.0])
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000001.pth"
    train([9.0, 2.0], resume=True)
    assert json.loads((tmp_path / "run" / "model_best.json").read_text()) == {"metric": 9.0, "iteration": 1}
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    (made_up,) = (line for line in logged if line["iteration"] == 1 and "student/segm/AP" in line)
    assert made_up["student/segm/AP"] == 9.0 and "pseudo_label_quality/labels" in made_up


def test_amp_without_a_gpu_is_one_warning_and_fp32(make_trainer, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer("supervised", semi=False, SOLVER__AMP__ENABLED=True)
        trainer.train()
    warnings = [record for record in caplog.records if "SOLVER.AMP.ENABLED" in record.getMessage()]
    assert len(warnings) == 1 and "fp32" in warnings[0].getMessage()
    assert isinstance(trainer._trainer, SimpleTrainer) and not isinstance(trainer._trainer, AMPTrainer)


@pytest.mark.parametrize(("clip", "norm"), [("norm", 5.0), ("full_model", 0.01)])
def test_accumulation_steps_every_second_time_and_resumes_between(make_trainer, tmp_path, clip, norm):
    options = {"semi": False, "SOLVER__ACCUMULATE": 2, "SOLVER__MAX_ITER": 4, "SOLVER__CHECKPOINT_PERIOD": 3}
    options |= {"SOLVER__CLIP_GRADIENTS__CLIP_TYPE": clip, "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": norm}
    trainer = make_trainer("supervised", **options)
    weight = trainer.model.student.backbone.fpn_output2.weight
    seen = []
    for iteration in range(4):
        trainer.register_hooks([AtStep(iteration, lambda: seen.append(weight.detach().clone()))])
    trainer.train()
    seen.append(weight.detach().clone())
    changes = [not torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False)]
    assert changes == [False, True, False, True]

    (tmp_path / "run" / "last_checkpoint").write_text("model_0000002.pth")
    resumed = make_trainer("supervised", resume=True, **options)
    assert resumed.start_iter == 3
    resumed.train()
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key


def test_loss_that_is_not_finite_keeps_the_last_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer("supervised", semi=False, SOLVER__MAX_ITER=9, SOLVER__CHECKPOINT_PERIOD=1)
    bias = trainer.model.student.roi_heads.mask_head.predictor.bias
    trainer.register_hooks([AtStep(2, lambda: torch.nn.init.constant_(bias, float("nan")))])
    with pytest.raises(FloatingPointError, match=r"loss_mask.*images/\d+.png.*last checkpoint"):
        trainer.train()
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000001.pth"
    state = torch.load(tmp_path / "run" / "model_0000001.pth", weights_only=True)["model"]
    assert all(value.isfinite().all() for value in state.values())


def test_cache_of_embeddings_is_filled_while_training(make_trainer, tmp_path):
    trainer = make_trainer("stage2", SOLVER__MAX_ITER=1, S4M__SAM__CACHE=str(tmp_path / "cache"))
    trainer.train()
    assert any(path.is_file() for path in (tmp_path / "cache").rglob("*"))
    encode, asked = trainer.model.segmenter.encode, []
    trainer.model.segmenter.encode = lambda images: asked.append(len(images)) or encode(images)
    batch = next(iter(trainer.build_train_loader(trainer.cfg)))
    trainer.model.pseudo_label(batch["unlabeled"])
    assert asked == []


def test_cache_of_embeddings_holds_the_labeled_images_of_calibration_too(make_trainer, tmp_path):
    options = {"S4M__CALIBRATION__ENABLED": True, "S4M__SAM__CACHE": str(tmp_path / "cache"), "SOLVER__MAX_ITER": 1}
    trainer = make_trainer("stage2", **options)
    batch = next(iter(trainer.build_train_loader(trainer.cfg)))
    files = {entry["file_name"] for images in batch.values() for entry in images}
    asked, encode, model = [], trainer.model.segmenter.encode, trainer.model
    model.segmenter.encode = lambda images: asked.append(len(images)) or encode(images)
    trainer.train()
    cache, drawn = model.sam_source.cache, int(model.calibration.drawn)
    assert drawn > 0 and (sum(asked), cache.misses, cache.hits) == (6, 6, 0) and len(files) == 6
    assert sum(path.is_file() for path in (tmp_path / "cache").rglob("*")) == 6
    model.calibrate(batch["labeled"])
    model.pseudo_label(batch["unlabeled"])
    assert sum(asked) == cache.misses == cache.hits == 6 and int(model.calibration.drawn) > drawn


@pytest.mark.parametrize(("calibrated", "images"), [(False, 6), (True, 12)])
def test_a_full_cache_tells_what_all_of_its_images_need(make_trainer, tmp_path, caplog, calibrated, images):
    options = {"S4M__SAM__CACHE": str(tmp_path / "cache"), "S4M__SAM__CACHE_GIB": 1e-9, "SOLVER__MAX_ITER": 1}
    with caplog.at_level(logging.WARNING):
        make_trainer("stage2", S4M__CALIBRATION__ENABLED=calibrated, **options).train()
    (message,) = (record.getMessage() for record in caplog.records if "S4M.SAM.CACHE_GIB" in record.getMessage())
    assert f"All {images} need about" in message


def test_missing_sam_is_told_before_the_first_iteration(small_cfg, tmp_path):
    cfg = small_cfg(S4M__SAM__NAME="vit_b", S4M__SAM__CHECKPOINT="absent.pth", OUTPUT_DIR=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="S4M.SAM.CHECKPOINT.*absent.pth"):
        S4MTrainer(cfg)


@pytest.mark.parametrize("count", [3, 80])
def test_other_number_of_classes_names_the_key(make_trainer, count):
    with pytest.raises(ValueError, match=f"MODEL.ROI_HEADS.NUM_CLASSES is {count}, but .* has 5 classes"):
        make_trainer("supervised", semi=False, MODEL__ROI_HEADS__NUM_CLASSES=count)


def test_checkpoint_that_is_gone_is_named(make_trainer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000007.pth")
    with pytest.raises(ValueError, match="holds no whole checkpoint to resume from"):
        make_trainer("supervised", resume=True, semi=False)


def test_a_training_writes_its_table_of_figures(make_trainer, tmp_path):
    make_trainer("supervised", semi=False, SOLVER__MAX_ITER=2, WRITERS__CSV=True).train()
    rows = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    assert rows[0] == ["iteration", "name", "value"]
    assert {"total_loss", "loss_mask", "lr"} <= {name for _, name, _ in rows[1:]}
