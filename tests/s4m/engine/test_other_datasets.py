"""VOC's and Cityscapes' annotations from their own layout to trainings that are scored and resumed."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_cityscapes

from s4m.data.builtin import register_cityscapes
from s4m.data.cityscapes import prepare_cityscapes
from s4m.data.splits import write_splits
from s4m.data.voc_instances import prepare_voc
from s4m.engine.trainer import S4MTrainer

# A training of two iterations.
SHORT = {
    "SOLVER__MAX_ITER": 2,
    "SOLVER__STEPS": (),
    "SOLVER__IMS_PER_BATCH": 1,
    "SOLVER__CHECKPOINT_PERIOD": 1,
    "S4M__UNLABELED_BATCH": 2,
    "S4M__TEACHER__BURN_IN": 0,
    "TEST__EVAL_PERIOD": 2,
    "TEST__DETECTIONS_PER_IMAGE": 10,
    "DATALOADER__NUM_WORKERS": 0,
}


def train_and_resume(cfg):
    """The results of two iterations and what metrics.json says last; a third one goes on from their checkpoint."""
    cfg.freeze()
    trainer = S4MTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    more = cfg.clone()
    more.defrost()
    more.SOLVER.MAX_ITER, more.TEST.EVAL_PERIOD, more.DATASETS.TEST = 3, 0, ()
    resumed = S4MTrainer(more)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    resumed.train()
    logged = {}
    for line in Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    assert logged["iteration"] == 2 and resumed.iter == 3
    return trainer._last_eval_results, logged


def check_losses(logged):
    """Losses on labels and on pseudo-labels are there, and finite."""
    losses = {key: value for key, value in logged.items() if "loss" in key}
    assert any(key.endswith("_pseudo") for key in losses) and all(math.isfinite(value) for value in losses.values())


def few(path, count):
    """The json with its first images alone."""
    content = json.loads(path.read_text())
    content["images"] = content["images"][:count]
    known = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in known]
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module", params=["generated", "real"])
def voc_sets(request, tmp_path_factory):
    """Options that name VOC's train and val, and images without labels, of a generated tree and of a real one."""
    output = tmp_path_factory.mktemp("voc_json")
    if request.param == "real":
        voc, unlabeled = request.getfixturevalue("shared") / "data" / "voc_mini" / "VOCdevkit" / "VOC2012", "unlabeled"
    else:
        voc, unlabeled = request.getfixturevalue("voc_tree").voc, "more"
    jsons = prepare_voc(voc, output, unlabeled=[unlabeled])
    few(jsons["val"], 4)
    names = {"TRAIN": f"voc:{jsons['train']}", "TEST": f"voc:{jsons['val']}", "UNLABELED": f"coco:{jsons[unlabeled]}"}
    return {f"DATASETS__{key}": (f"{name}:{voc}/JPEGImages",) for key, name in names.items()}


VOC = {
    "rcnn": ["quick/voc_mini_stage2.yaml"],
    "mask2former": ["quick/voc_mini_stage2.yaml", "quick/overlays/mask2former_stage2.yaml"],
}


@pytest.mark.parametrize("student", ["rcnn", "mask2former"])
def test_voc_trains_is_scored_and_goes_on(voc_sets, student, small_cfg, tiny_mask2former, tmp_path):
    options = {
        **SHORT,
        **tiny_mask2former,
        **voc_sets,
        "MODEL__ROI_HEADS__NUM_CLASSES": 20,
        "OUTPUT_DIR": str(tmp_path),
    }
    results, logged = train_and_resume(small_cfg(VOC[student], **options))
    assert list(results) == ["student", "teacher"]
    for scores in results.values():
        assert {"bbox", "segm", "voc"} <= scores.keys() and {"APr50", "APr70", "APr_vol"} <= scores["voc"].keys()
    check_losses(logged)
    assert "teacher/voc/APr50" in logged and logged["pseudo_label_quality/truths"] > 0


@pytest.fixture
def cityscapes(cityscapes_tree, tmp_path, monkeypatch):
    """Options that name Cityscapes' fraction of 20 %, the images beside it and val, registered for the tree's copy."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", {k: v for k, v in catalog.data.items() if "cityscapes_fine" not in k})
    shutil.copytree(cityscapes_tree / "cityscapes", tmp_path / "cityscapes")
    write_splits(prepare_cityscapes(tmp_path / "cityscapes"), [20], 1, 0)
    register_all_cityscapes(str(tmp_path))
    register_cityscapes(str(tmp_path))
    name = "cityscapes_fine_instance_seg"
    names = {"TRAIN": "train_20_fold0", "UNLABELED": "train_20_fold0_unlabeled", "TEST": "val"}
    return {f"DATASETS__{key}": (f"{name}_{split}",) for key, split in names.items()}


@pytest.mark.parametrize("student", ["R50-FPN", "Mask2Former-R50"])
def test_cityscapes_trains_is_scored_and_goes_on(cityscapes, student, small_cfg, tiny_mask2former, tmp_path):
    small = {"MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64, "INPUT__CROP__SIZE": [48, 64]}
    none = dict.fromkeys(("MODEL__WEIGHTS", "S4M__TEACHER__WEIGHTS", "S4M__SAM__CHECKPOINT"), "")
    options = {
        **SHORT,
        **tiny_mask2former,
        **cityscapes,
        **small,
        **none,
        "MODEL__ROI_HEADS__NUM_CLASSES": 8,
        "MODEL__DEVICE": "cpu",
    }
    options |= {"S4M__SAM__NAME": "tiny", "SOLVER__REFERENCE_BATCH": 0, "OUTPUT_DIR": str(tmp_path / "run")}
    results, logged = train_and_resume(small_cfg(f"s4m/cityscapes/{student}_20pct_stage2.yaml", **options))
    assert {name: set(scores["segm"]) for name, scores in results.items()} == {
        "student": {"AP", "AP50"}, "teacher": {"AP", "AP50"},
    }  # fmt: skip
    check_losses(logged)
    assert "student/segm/AP50" in logged
