"""Every configuration that is shipped builds, steps, saves and resumes, with its own architecture."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog

from s4m import add_s4m_config
from s4m.engine.trainer import S4MTrainer
from s4m.losses.boundary_consistency import BoundaryConsistency
from s4m.modeling.ignored import require_pseudo_label_parts
from s4m.pseudo_labels.pipeline import PseudoLabeler
from s4m.sam import SEGMENTERS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
YAMLS = [path for folder in ("s4m", "quick") for path in sorted((CONFIGS / folder).rglob("*.yaml"))]
FILES = [path for path in YAMLS if not path.name.startswith(("Base-", "istd_"))]
# Data, length and place of a run, which say nothing about what is trained; and few, small images and detections.
RUN = {
    "MODEL.DEVICE": "cpu",
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.MASK2FORMER.POINTS": 64,
    "MODEL.MASK2FORMER.QUERIES": 10,
    "MODEL.VIT.NAME": "test_vit",
    "MODEL.VIT.CHECKPOINT": "random",
    "MODEL.VIT.LAYER": -1,
    "MODEL.WEIGHTS": "",
    "S4M.TEACHER.WEIGHTS": "",
    "S4M.SAM.NAME": "tiny",
    "S4M.SAM.CHECKPOINT": "",
    "S4M.SELECTION.SCORE": 0.05,
    "S4M.CALIBRATION.LOW": 0.05,
    "S4M.CALIBRATION.BOUNDS": (0.05, 0.9),
    "S4M.UNLABELED_BATCH": 4,
    "S4M.SD.POINTS": 4,
    "S4M.TEACHER.BURN_IN": 0,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MAX_SIZE_TRAIN": 128,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 128,
    "INPUT.LSJ.SIZE": 64,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.REFERENCE_BATCH": 0,
    "SOLVER.BASE_LR": 0.0001,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": (),
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1000,
    "SOLVER.AMP.ENABLED": False,
    "TEST.EVAL_PERIOD": 0,
    "TEST.DETECTIONS_PER_IMAGE": 5,
    "DATASETS.TEST": (),
    "DATALOADER.NUM_WORKERS": 0,
    "OUTPUT_DIR": "",
}


def read(path) -> CfgNode:
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.merge_from_file(str(path))
    return cfg


def is_semi(cfg):
    """Quick configurations get their data sets by option: those of a second stage begin at a teacher's weights."""
    return bool(cfg.DATASETS.UNLABELED) or cfg.S4M.STUDENT_INIT == "teacher"


def shrunk(path) -> CfgNode:
    """The configuration for a test run, but for its data sets and folder."""
    cfg = read(path)
    semi = is_semi(cfg)
    cfg.merge_from_list([item for pair in RUN.items() for item in pair])
    cfg.DATASETS.TRAIN, cfg.DATASETS.UNLABELED = (), ("some",) if semi else ()
    return cfg


def distinct():
    """One parameter for each different test run, named by the files that share it."""
    groups = defaultdict(list)
    for path in FILES:
        groups[shrunk(path).dump()].append(path)
    return [pytest.param(paths[0], id="+".join(path.stem for path in paths)) for paths in groups.values()]


def classifier(student) -> torch.nn.Linear:
    """The layer that names classes, of either student."""
    return student.roi_heads.box_predictor.cls_score if hasattr(student, "roi_heads") else student.head.class_predictor


@pytest.mark.parametrize("path", distinct())
def test_builds_steps_saves_and_resumes(path, shapes, tmp_path):
    cfg = shrunk(path)
    semi, cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR = is_semi(cfg), (shapes.labeled,), str(tmp_path)
    cfg.DATASETS.UNLABELED = (shapes.unlabeled,) if semi else ()
    trainer = S4MTrainer(cfg)
    trainer.resume_or_load(resume=False)
    assert (trainer.network.teacher is not None) == semi
    assert (trainer.network.segmenter is not None) == (cfg.S4M.SD.ENABLED or cfg.S4M.PR.ENABLED)
    first = classifier(trainer.network.student).weight.clone()
    trainer.train()
    assert not torch.equal(first, classifier(trainer.network.student).weight)

    cfg.SOLVER.MAX_ITER = 3
    resumed = S4MTrainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[key], value), key
    resumed.train()
    last = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert last["iteration"] == 2 and last["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 3
    (tmp_path / "model_final.pth").unlink()  # half a gigabyte, for some


@pytest.mark.parametrize("path", [x for x in FILES if "student" in x.stem], ids=lambda path: path.stem)
def test_a_students_numbers_fit_every_switch(path):
    cfg = read(path)
    cfg.DATASETS.UNLABELED = ("some",)
    for name in ("PR", "ARP", "BOUNDARY", "CALIBRATION", "MATCHING"):
        cfg.S4M[name].ENABLED = True
    labeler = PseudoLabeler(cfg)
    assert labeler.calibration.thresholds().unique().tolist() == pytest.approx([cfg.S4M.SELECTION.SCORE])
    assert labeler.guards is not None and BoundaryConsistency.read(cfg) is not None
    require_pseudo_label_parts(cfg)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_names_what_exists(path):
    cfg = read(path)
    for key in ("TRAIN", "UNLABELED", "TEST"):
        assert all(name in DatasetCatalog for name in cfg.DATASETS[key]), key
    if is_semi(cfg) and cfg.S4M.TEACHER.WEIGHTS:
        stage1 = read(str(path).replace("_student", "_teacher"))
        assert f"{stage1.OUTPUT_DIR}/model_final.pth" == cfg.S4M.TEACHER.WEIGHTS
        assert stage1.DATASETS.TRAIN == cfg.DATASETS.TRAIN
        assert stage1.S4M.STUDENT == cfg.S4M.STUDENT and stage1.INPUT.FORMAT == cfg.INPUT.FORMAT
        for part in ("ROI_HEADS", "FPN", "BACKBONE", "RESNETS", "MASK2FORMER", "VIT", "PIXEL_MEAN", "PIXEL_STD"):
            assert stage1.MODEL[part] == cfg.MODEL[part], part
    assert not set(cfg.DATASETS.TRAIN) & set(cfg.DATASETS.TEST)


def test_there_are_configurations_of_both_stages():
    semi = [is_semi(read(path)) for path in FILES]
    assert len(FILES) > 10 and any(semi) and not all(semi)


@pytest.mark.parametrize("path", [x for x in FILES if "mean_teacher" in x.stem], ids=lambda path: path.stem)
def test_a_mean_teacher_has_nothing_of_sam(path):
    s4m = read(path).S4M
    assert not any(s4m[name].ENABLED for name in ("SD", "PR", "ARP", "BOUNDARY", "CALIBRATION", "MATCHING"))


@pytest.mark.parametrize("path", [x for x in FILES if x.stem.endswith("_student")], ids=lambda path: path.stem)
def test_a_student_has_the_guards_that_the_ablation_speaks_for(path):
    s4m = read(path).S4M
    guards = [s4m[name].ENABLED for name in ("BOUNDARY", "CALIBRATION", "MATCHING")]
    assert guards == ([True, True, False] if s4m.STUDENT == "S4MRCNN" else [False] * 3)


@pytest.mark.parametrize("path", [x for x in FILES if "supervised" in x.stem], ids=lambda path: path.stem)
def test_a_baseline_has_no_structural_distillation(path):
    assert not read(path).S4M.SD.ENABLED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_checkpoints_fall_inside_the_run(path):
    solver = read(path).SOLVER
    assert 0 < solver.CHECKPOINT_PERIOD < solver.MAX_ITER


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_segmenter_is_known(path):
    s4m = read(path).S4M
    assert s4m.SAM.NAME in SEGMENTERS if s4m.SD.ENABLED or s4m.PR.ENABLED else s4m.SAM.NAME in {"", *SEGMENTERS}
