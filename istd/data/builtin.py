"""Registered data sets of synthetic infrared scenes, which are written when they are first loaded."""

import os
import shutil
from functools import partial
from pathlib import Path

import portalocker
from detectron2.data import DatasetCatalog

from istd.data.datasets import register_sirst
from istd.data.synthetic import write_scenes

COUNT = 300
SEED = 1


def write_scenes_once(folder: str | os.PathLike, count: int = COUNT, seed: int = SEED) -> None:
    """Write the scenes of `write_scenes` to `folder` unless it exists.

    Several processes may call this at once, and the folder appears only when it is complete.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with portalocker.Lock(folder.with_name(f".{folder.name}.lock"), flags=portalocker.LOCK_EX):
        if not folder.is_dir():
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            write_scenes(part, count, seed=seed)
            part.rename(folder)


def register_scenes(root: str | None = None) -> None:
    """Register `scenes_train`, `scenes_val` and `scenes_test`, unless these names are registered already.

    Args:
        root: folder that gets `scenes/`; the default is DETECTRON2_DATASETS, or `datasets`, as in Detectron2.
    """
    folder = Path(os.path.expanduser(root or os.getenv("DETECTRON2_DATASETS", "datasets")), "scenes")
    for split in ("train", "val", "test"):
        if f"scenes_{split}" not in DatasetCatalog:
            register_sirst(f"scenes_{split}", folder, split, prepare=partial(write_scenes_once, folder))
