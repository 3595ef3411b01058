"""The configurations of COCO and Cityscapes hold the published schedule, as far as there is one."""

from functools import reduce
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg

from s4m import add_s4m_config
from s4m.engine.schedule import scale_schedule

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "s4m"
FILES = {
    f"{folder}/{path.stem}": path
    for folder in ("coco", "cityscapes")
    for path in sorted((CONFIGS / folder).glob("*pct_*.yaml"))
}
# Iterations and steps of each stage 1, and of a network's stage 2, whose lengths (COCO: at 12 images) are the paper's.
LENGTHS = {
    "coco/Mask2Former-R50_1pct_stage1": (20000, (17800, 19300)),
    "coco/Mask2Former-R50_2pct_stage1": (30000, (26700, 28900)),
    "coco/Mask2Former-R50_5pct_stage1": (60000, (53300, 57800)),
    "coco/Mask2Former-R50_10pct_stage1": (90000, (80000, 86700)),
    "coco/Mask2Former-R50_stage2": (368750, (327778, 355092)),
    "coco/R50-FPN_1pct_stage1": (9000, (6000, 8000)),
    "coco/R50-FPN_2pct_stage1": (18000, (12000, 16000)),
    "coco/R50-FPN_5pct_stage1": (36000, (24000, 32000)),
    "coco/R50-FPN_10pct_stage1": (54000, (36000, 48000)),
    "coco/R50-FPN_stage2": (276562, (245833, 266319)),
    "cityscapes/Mask2Former-R50_5pct_stage1": (15000, None),
    "cityscapes/Mask2Former-R50_10pct_stage1": (20000, None),
    "cityscapes/Mask2Former-R50_20pct_stage1": (30000, None),
    "cityscapes/Mask2Former-R50_30pct_stage1": (40000, None),
    "cityscapes/Mask2Former-R50_stage2": (90000, None),
    "cityscapes/R50-FPN_5pct_stage1": (12000, None),
    "cityscapes/R50-FPN_10pct_stage1": (18000, None),
    "cityscapes/R50-FPN_20pct_stage1": (24000, None),
    "cityscapes/R50-FPN_30pct_stage1": (30000, None),
    "cityscapes/R50-FPN_stage2": (90000, None),
}
NETWORKS = {
    "Mask2Former-R50": {
        "S4M.STUDENT": "S4MMask2Former",
        "S4M.SAM.NAME": "sam2_hiera_large",
        "SOLVER.OPTIMIZER": "ADAMW",
        "SOLVER.BASE_LR": 0.0001,
        "SOLVER.BACKBONE_MULTIPLIER": 0.1,
        "SOLVER.WEIGHT_DECAY": 0.05,
        "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
        "SOLVER.WARMUP_ITERS": 10,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.01,
        "MODEL.BACKBONE.FREEZE_AT": 0,
    },
    "R50-FPN": {
        "S4M.STUDENT": "S4MRCNN",
        "S4M.SAM.NAME": "vit_h",
        "SOLVER.OPTIMIZER": "SGD",
        "SOLVER.BASE_LR": 0.02,
        "SOLVER.BACKBONE_MULTIPLIER": 1.0,
        "SOLVER.WEIGHT_DECAY": 0.0001,
        "SOLVER.WARMUP_ITERS": 1000,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
        "MODEL.BACKBONE.FREEZE_AT": 2,
    },
}
DATA = {
    "coco": {
        "MODEL.ROI_HEADS.NUM_CLASSES": 80,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "SOLVER.GAMMA": 0.1,
        "INPUT.LSJ.ENABLED": True,
        "INPUT.LSJ.SIZE": 1024,
        "INPUT.LSJ.MIN_SCALE": 0.1,
        "INPUT.LSJ.MAX_SCALE": 2.0,
    },
    "cityscapes": {
        "MODEL.ROI_HEADS.NUM_CLASSES": 8,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
        "SOLVER.POLY_LR_POWER": 0.9,
        "INPUT.LSJ.ENABLED": False,
        "INPUT.MIN_SIZE_TRAIN": tuple(int(1024 * tenth / 10) for tenth in range(5, 21)),
        "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.AFTER_RESIZE": True,
        "INPUT.CROP.SIZE": [512, 1024],
    },
}
EVERYWHERE = {
    "SOLVER.REFERENCE_BATCH": 0,  # scaled
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.AMP.ENABLED": True,
    "S4M.TEACHER.EMA_DECAY": 0.9996,
    "S4M.UNSUP_WEIGHT": 2.0,
    "S4M.SELECTION.SCORE": 0.7,
    "S4M.SELECTION.MIN_PIXELS": 5.0,
}
STAGES = {
    "stage1": {
        "SOLVER.IMS_PER_BATCH": 16,
        "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
        "S4M.SD.ENABLED": True,
        "S4M.SD.POINTS": 128,
        "S4M.SD.WEIGHT": 1.0,
        "S4M.PR.ENABLED": False,
        "S4M.ARP.ENABLED": False,
    },
    "stage2": {
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 10.0,
        "S4M.STUDENT_INIT": "backbone",
        "S4M.SD.ENABLED": False,
        "S4M.PR.ENABLED": True,
        "S4M.PR.POINTS": 3,
        "S4M.ARP.ENABLED": True,
        "S4M.ARP.FRACTION": 0.25,
        "S4M.ARP.MIN_AREA": 3000 / 1024**2,
        "S4M.ARP.SCALE": (0.8, 1.2),
    },
}
# Labeled and unlabeled images an iteration, and the burn-in.
STUDENTS = {
    "coco/Mask2Former-R50": (12, 12, 25000),
    "coco/R50-FPN": (16, 16, 18750),
    "cityscapes/Mask2Former-R50": (16, 16, 15000),
    "cityscapes/R50-FPN": (16, 16, 15000),
}


def read(path, *options) -> CfgNode:
    """The configuration as it trains."""
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.merge_from_file(str(path))
    cfg.merge_from_list(list(options))
    return scale_schedule(cfg)


def value(cfg, key):
    return reduce(lambda node, part: node[part], key.split("."), cfg)


@pytest.mark.parametrize("name", FILES)
def test_schedule(name):
    cfg = read(FILES[name])
    network, percent, stage = name.rpartition("/")[2].split("_")
    kind = name.split("_")[0]
    wanted = EVERYWHERE | NETWORKS[network] | DATA[name.split("/")[0]] | STAGES[stage]
    if stage == "stage2":
        keys = ("SOLVER.IMS_PER_BATCH", "S4M.UNLABELED_BATCH", "S4M.TEACHER.BURN_IN")
        wanted |= dict(zip(keys, STUDENTS[kind], strict=True)) | {"S4M.ARP.DYNAMIC": name.startswith("coco")}
    length, steps = LENGTHS[f"{kind}_stage2" if stage == "stage2" else name]
    wanted |= {"SOLVER.MAX_ITER": length} | ({"SOLVER.STEPS": steps} if steps else {})
    assert {key: value(cfg, key) for key in wanted} == wanted
    assert f"train_{percent.removesuffix('pct')}_fold0" in cfg.DATASETS.TRAIN[0]


def test_the_table_has_every_file():
    stage1 = {name for name in LENGTHS if name.endswith("_stage1")}
    assert set(FILES) == stage1 | {name.replace("_stage1", "_stage2") for name in stage1}
    assert len(FILES) == 32


def test_mask_rcnn_at_the_papers_batch_has_the_papers_length():
    cfg = read(FILES["coco/R50-FPN_1pct_stage2"], "SOLVER.IMS_PER_BATCH", 12)
    found = cfg.SOLVER.MAX_ITER, *cfg.SOLVER.STEPS, cfg.S4M.TEACHER.BURN_IN
    assert found == pytest.approx((368750, 327778, 355092, 25000), abs=1)
