"""Fixtures of the ISTD tests: a few small scenes, and any configuration made small."""

from types import SimpleNamespace

import pytest

from d2kit.config_files import compose_config
from istd import add_istd_config
from istd.data.synthetic import write_scenes

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


def config_files(name: str) -> list[str]:
    """The configuration files of a run: see `istd_cfg`."""
    network, _, scheme = name.partition("_")
    files = [f"istd/networks/{'alcnet' if network == 'quick' else network}.yaml", f"istd/schemes/{scheme}.yaml"]
    return [*files, "quick/overlays/scenes.yaml"] if network == "quick" else files


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
def istd_arguments():
    """Function (name as of `istd_cfg`) -> the arguments of tools/train_net.py that name its files."""

    def make(name: str) -> list[str]:
        first, *overlays = config_files(name)
        return ["--config-file", first, *(item for file in overlays for item in ("--overlay", file))]

    return make


@pytest.fixture(scope="session")
def istd_cfg(istd_options):
    """Function (name, **more) -> a small frozen configuration on the scenes.

    The name is that of a network and a scheme, such as "acm_full"; the network "quick" is ALCNet with the overlay
    scenes.yaml.
    """

    def make(name: str = "quick_semantic_prior", **more):
        cfg = compose_config(config_files(name), istd_options(**more), [add_istd_config])
        cfg.freeze()
        return cfg

    return make
