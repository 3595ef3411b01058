"""The data of the trainings that are killed: a few synthetic images."""

from pathlib import Path

from istd.data.synthetic import write_scenes
from s4m.data.shapes import write_shapes
from s4m.data.splits import split_name, write_splits


def s4m_options(folder: Path) -> list[str]:
    """Write 6 labeled, 6 unlabeled and 2 test images of 64 px, and return the options that name them."""
    train = write_shapes(folder / "train", 12, seed=0, image_size=(64, 64))
    test = write_shapes(folder / "val", 2, seed=1, image_size=(64, 64))
    write_splits(train, [50], folds=1, seed=0, output=folder, allow_missing_classes=True)
    labeled, unlabeled = (folder / f"annotations_{split_name(50, 0, part)}.json" for part in (False, True))
    sets = {
        "TRAIN": f"coco:{labeled}:{folder}/train/images",
        "UNLABELED": f"coco:{unlabeled}:{folder}/train/images",
        "TEST": f"coco:{test}:{folder}/val/images",
    }
    return [item for key, name in sets.items() for item in (f"DATASETS.{key}", repr((name,)))]


def istd_options(folder: Path) -> list[str]:
    """Write 6 training, 2 validation and 2 test scenes of 48 x 64 px, and return the options that name them."""
    root = folder / "scenes"
    write_scenes(root, 10, seed=3, size=(48, 64), splits=(0.6, 0.2), empty_share=0.0)
    sets = {"TRAIN": "train", "VALIDATION": "val", "TEST": "test"}
    return [item for key, split in sets.items() for item in (f"DATASETS.{key}", repr((f"sirst:{root}:{split}.txt",)))]
