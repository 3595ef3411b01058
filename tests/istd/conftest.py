"""Fixtures of the ISTD tests: a few small scenes, and any configuration made small."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.config import get_cfg

from istd import add_istd_config
from istd.data.synthetic import write_scenes

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
# Two iterations an epoch on crops of 32 px, and everything that happens between epochs after each of them.
SMALL = {
    "MODEL.DEVICE": "cpu",
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 3,
    "ISTD.INPUT.CROP": 32,
    "ISTD.LABELS.EASY_SHARE": 0.3,
    "ISTD.VFM.NAME": "test_vit",
    "ISTD.VFM.CHECKPOINT": "random",
    "ISTD.VFM.LAYERS": 3,
    "ISTD.EVOLUTION.START": 0.0,
    "ISTD.EVOLUTION.PERIOD": 1,
    "ISTD.OUTER.PERIOD": 1,
    "ISTD.OUTER.STEPS": 2,
    "ISTD.SCHEDULE.EPOCHS": 2,
    "ISTD.SCHEDULE.EVAL": 1,
    "ISTD.SCHEDULE.CHECKPOINT": 1,
    "ISTD.SCHEDULE.WARMUP": 0,
}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> SimpleNamespace:
    """Folder and data set names of 10 scenes of 48 or 64 px a side: 6 `train`, 2 `val`, 2 `test`."""
    root = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(root, 10, seed=3, size=(48, 64), splits=(0.6, 0.2), empty_share=0.0)
    names = {split: f"sirst:{root}:{split}.txt" for split in ("train", "val", "test")}
    return SimpleNamespace(root=root, **names)


@pytest.fixture(scope="session")
def istd_options(scenes):
    """Function (**more) -> options KEY VALUE ... that make any ISTD configuration small; `__` stands for the point."""

    def make(**more) -> list:
        options = {
            **SMALL,
            "DATASETS.TRAIN": (scenes.train,),
            "DATASETS.VALIDATION": (scenes.val,),
            "DATASETS.TEST": (scenes.test,),
        }
        options.update({key.replace("__", "."): value for key, value in more.items()})
        return [item for pair in options.items() for item in pair]

    return make


@pytest.fixture(scope="session")
def istd_cfg(istd_options):
    """Function (configuration's path under configs/, **more) -> a small frozen configuration on the scenes."""

    def make(name: str = "quick/istd_semantic_prior.yaml", **more):
        cfg = get_cfg()
        add_istd_config(cfg)
        cfg.merge_from_file(str(CONFIGS / name))
        cfg.merge_from_list(istd_options(**more))
        cfg.freeze()
        return cfg

    return make
