"""Every shipped configuration of S4M is complete and consistent, and each kind builds, steps, saves and resumes."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

import istd  # noqa: F401  (registration of its data sets)
from d2kit.config_files import compose_config
from istd import add_istd_config
from s4m import add_s4m_config
from s4m.engine.trainer import S4MTrainer
from s4m.losses.boundary_consistency import BoundaryConsistency
from s4m.modeling.ignored import require_pseudo_label_parts
from s4m.pseudo_labels.pipeline import PseudoLabeler
from s4m.sam import SEGMENTERS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ALL = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
FILES = [name for name in ALL if not name.startswith(("istd/", "quick/overlays/")) and "/Base-" not in name]
STAGE2 = [name for name in FILES if name.endswith("_stage2.yaml")]
OVERLAYS = "quick/overlays/"
# Each quick run with its overlays, as the documentation composes them.
COMPOSED = [
    [f"quick/{data}_{stage}.yaml", *overlays]
    for stage in ("stage1", "stage2")
    for data, overlays in (
        ("shapes", [f"{OVERLAYS}mask2former_{stage}.yaml"]),
        ("shapes", [f"{OVERLAYS}vit.yaml"]),
        ("shapes", [f"{OVERLAYS}mask2former_{stage}.yaml", f"{OVERLAYS}vit.yaml", f"{OVERLAYS}vit_mask2former.yaml"]),
        ("dsb2018", [f"{OVERLAYS}vit.yaml", f"{OVERLAYS}dsb2018_vit.yaml"]),
        ("dsb2018", [f"{OVERLAYS}mask2former_{stage}.yaml", f"{OVERLAYS}dsb2018_mask2former.yaml"]),
        ("coco_mini", [f"{OVERLAYS}vit.yaml"]),
    )
] + [["quick/coco_mini_stage1.yaml", f"{OVERLAYS}vit.yaml", f"{OVERLAYS}coco_mini_longer.yaml"]]
COMPOSED += [[*COMPOSED[-1], f"{OVERLAYS}coco_mini_longer_cpu.yaml"]]
RUNS = [[name] for name in FILES] + COMPOSED
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
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "S4M.TEACHER.WEIGHTS": "",
    "S4M.TEACHER.EMA_DECAY": 0.5,
    "S4M.SAM.NAME": "tiny",
    "S4M.SAM.CHECKPOINT": "",
    "S4M.SELECTION.SCORE": 0.05,
    "S4M.CALIBRATION.LOW": 0.05,
    "S4M.CALIBRATION.BOUNDS": (0.05, 0.9),
    "S4M.UNLABELED_BATCH": 4,
    "S4M.UNSUP_WEIGHT": 1.0,
    "S4M.LOG_PERIOD": 50,
    "S4M.QUALITY_IMAGES": 0,
    "S4M.QUALITY_VIEW": "test",
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
    "SOLVER.WARMUP_FACTOR": 1.0,
    "SOLVER.CHECKPOINT_PERIOD": 1000,
    "SOLVER.AMP.ENABLED": False,
    "TEST.EVAL_PERIOD": 0,
    "TEST.DETECTIONS_PER_IMAGE": 5,
    "DATASETS.TEST": (),
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "DATALOADER.REPEAT_THRESHOLD": 0.0,
    "OUTPUT_DIR": "",
}


def compose(files, *options) -> CfgNode:
    return compose_config(files, options, [add_s4m_config])


def run_id(files) -> str:
    return "+".join(Path(name).stem for name in files)


def closure(name: str) -> dict[str, int]:
    """The file itself and all that it takes values from, each with its depth."""
    depths, path = {name: 0}, CONFIGS / name
    bases = yaml.safe_load(path.read_text()).get("_BASE_", [])
    for base in [bases] if isinstance(bases, str) else bases:
        below = closure((path.parent / base).resolve().relative_to(CONFIGS).as_posix())
        depths |= {file: depth + 1 for file, depth in below.items()}
    return depths


def test_there_are_few_files():
    assert 50 < len(ALL) <= 95


@pytest.mark.parametrize("name", ALL)
def test_values_come_from_three_files_at_most(name):
    depths = closure(name)
    assert len(depths) <= 3 and max(depths.values()) <= 2


@pytest.mark.parametrize("name", ALL)
def test_the_head_says_what_the_file_is_or_needs(name):
    first = (CONFIGS / name).read_text().splitlines()[0]
    assert first.startswith("# ") and len(first) > 20


@pytest.mark.parametrize("files", COMPOSED, ids=run_id)
def test_overlays_compose(files):
    compose(files)


@pytest.mark.parametrize("name", [x for x in ALL if x.startswith("istd/")])
def test_istd_files_compose_alone(name):
    compose_config([name], add_keys=[add_istd_config])


def shrunk(files) -> CfgNode:
    """The configuration for a test run, but for its data sets and folder."""
    cfg = compose(files)
    semi = is_stage2(files)
    cfg.merge_from_list([item for pair in RUN.items() for item in pair])
    cfg.DATASETS.TRAIN, cfg.DATASETS.UNLABELED = (), ("unlabeled",) if semi else ()
    return cfg


def is_stage2(files) -> bool:
    return "_stage2" in files[0]


def distinct():
    """One parameter for each different test run, named by the first files of it."""
    groups = defaultdict(list)
    for files in RUNS:
        groups[shrunk(files).dump()].append(files)
    return [pytest.param(runs[0], id=run_id(runs[0])) for runs in groups.values()]


def classifier(student) -> torch.nn.Linear:
    """The layer that names classes, of either student."""
    return student.roi_heads.box_predictor.cls_score if hasattr(student, "roi_heads") else student.head.class_predictor


@pytest.mark.parametrize("files", distinct())
def test_builds_steps_saves_and_resumes(files, shapes, tmp_path):
    cfg = shrunk(files)
    semi, cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR = is_stage2(files), (shapes.labeled,), str(tmp_path)
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
    (tmp_path / "model_final.pth").unlink()  # Half a gigabyte for the large networks.


@pytest.mark.parametrize("name", STAGE2)
def test_the_numbers_of_stage_2_fit_every_switch(name):
    cfg = compose([name])
    for switch in ("PR", "ARP", "BOUNDARY", "CALIBRATION", "MATCHING"):
        cfg.S4M[switch].ENABLED = True
    labeler = PseudoLabeler(cfg)
    assert labeler.calibration.thresholds().unique().tolist() == pytest.approx([cfg.S4M.SELECTION.SCORE])
    assert labeler.matching is not None and BoundaryConsistency.read(cfg) is not None
    if cfg.S4M.STUDENT == "S4MRCNN":
        require_pseudo_label_parts(cfg)


@pytest.mark.parametrize("name", FILES)
def test_data_sets_are_known_or_named_by_path(name):
    datasets = compose([name]).DATASETS
    names = [*datasets.TRAIN, *datasets.UNLABELED, *datasets.TEST]
    if "own_data" not in name:
        assert datasets.TRAIN and datasets.TEST
    assert all(entry in DatasetCatalog or entry.startswith(("coco:", "voc:", "folder:")) for entry in names)
    assert not set(datasets.TRAIN) & set(datasets.TEST)


@pytest.mark.parametrize("name", STAGE2)
def test_stage_2_starts_from_its_stage_1(name):
    cfg, stage1 = compose([name]), compose([name.replace("_stage2", "_stage1")])
    assert f"{stage1.OUTPUT_DIR}/model_final.pth" == cfg.S4M.TEACHER.WEIGHTS
    assert stage1.DATASETS.TRAIN == cfg.DATASETS.TRAIN
    assert stage1.S4M.STUDENT == cfg.S4M.STUDENT and stage1.INPUT.FORMAT == cfg.INPUT.FORMAT
    for part in ("ROI_HEADS", "FPN", "BACKBONE", "RESNETS", "MASK2FORMER", "VIT", "PIXEL_MEAN", "PIXEL_STD"):
        assert stage1.MODEL[part] == cfg.MODEL[part], part


def test_output_folders_differ():
    folders = [compose([name]).OUTPUT_DIR for name in FILES]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("files", [files for files in RUNS if "_stage2" in files[0]], ids=run_id)
def test_stage_2_has_the_guards_that_the_ablation_speaks_for(files):
    s4m = compose(files).S4M
    guards = [s4m[name].ENABLED for name in ("BOUNDARY", "CALIBRATION", "MATCHING")]
    assert guards == ([True, True, False] if s4m.STUDENT == "S4MRCNN" else [False] * 3)
    assert s4m.PR.ENABLED and s4m.ARP.ENABLED and not s4m.SD.ENABLED


@pytest.mark.parametrize("name", [name for name in FILES if name not in STAGE2])
def test_stage_1_has_structural_distillation_alone(name):
    cfg = compose([name])
    assert cfg.S4M.SD.ENABLED and not cfg.S4M.PR.ENABLED and not cfg.DATASETS.UNLABELED


@pytest.mark.parametrize("files", RUNS, ids=run_id)
def test_checkpoints_fall_inside_the_run(files):
    solver = compose(files).SOLVER
    assert 0 < solver.CHECKPOINT_PERIOD < solver.MAX_ITER


@pytest.mark.parametrize("files", RUNS, ids=run_id)
def test_the_segmenter_is_known(files):
    assert compose(files).S4M.SAM.NAME in SEGMENTERS
