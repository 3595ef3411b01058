"""A file of any kind with random damage gives one clear sentence that names it, or the right result.

The file is also a program that checks one kind: pycocotools and ONNX Runtime, which are written in C++, could crash on
damaged bytes, and so they run in a process of their own.
"""

import csv
import importlib.util
import itertools
import json
import logging
import os
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from d2kit.bounded_folder import BoundedFolder
from d2kit.checkpoint import AtomicCheckpointer
from d2kit.coco_masks import encode_mask
from d2kit.files import load_weights
from istd.checkpoints import load_network, save_network
from istd.data.clusters import ClusterTable
from istd.data.images import read_infrared, read_mask
from istd.data.points import PointSource
from istd.deploy.export import export_student
from istd.deploy.runners import open_model
from istd.evaluation.roc import read_curve
from istd.modeling import build_network
from istd.pseudo_masks.state import PseudoMasks
from istd.recipe import Recipe
from s4m.data.coco import load_coco
from s4m.data.images import read_image
from s4m.data.mappers import LabeledMapper

COUNT = int(os.environ.get("MUTATIONS", 70))  # mutations of each kind
END = 300  # bytes; half of the mutations are so close to an end of the file, where headers and directories are
RECIPE = Recipe("ACM", {"in_channels": 1, "norm": "BN"})
MASK = np.zeros((20, 30), np.uint8)
MASK[3:9, 4:11] = 1
NUMBERS = itertools.count()


def is_same(first: Any, second: Any) -> bool:
    """Whether two results are equal, with all their arrays and tensors."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(is_same(first[key], second[key]) for key in first)
    if isinstance(first, (np.ndarray, torch.Tensor)):
        return first.dtype == second.dtype and first.shape == second.shape and bool((first == second).all())
    return first == second


class Kind(NamedTuple):
    """A kind of file: its ending, functions that write and read one, and whether a check sum finds each change."""

    suffix: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    exact: bool = False
    may_crash: bool = False


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(2, 3, generator=generator), "bias": torch.randn(2, generator=generator)}


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(RECIPE.network, **RECIPE.options).eval()


def write_checkpoint(path: Path) -> None:
    torch.save({"model": weights()}, path)


def write_network(path: Path) -> None:
    save_network(path, small_network(), RECIPE)


def write_legacy(path: Path) -> None:
    write_network(path)
    content = torch.load(path, weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_zoo(path: Path) -> None:
    arrays = {name: value.numpy() for name, value in weights().items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}, protocol=2))


def read_zoo(path: Path) -> dict[str, torch.Tensor]:
    model = torch.nn.Linear(3, 2)
    AtomicCheckpointer(model).load(str(path))
    return model.state_dict()


def write_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights(), path)


def write_masks(path: Path) -> None:
    masks = PseudoMasks()
    masks.put("a", MASK * np.float32(0.7))
    masks.put("b", MASK * np.float32(0.2))
    masks.save(path.parent)
    next(path.parent.glob("masks-*.npz")).rename(path)


def read_cached(path: Path) -> bytes | None:
    folder = BoundedFolder(path.parent, 1, ".npy", key="ISTD.VFM.CACHE")
    folder._path = lambda key: path  # The name of an entry is a digest.
    return folder.read("key")


def write_cached(path: Path) -> None:
    folder = BoundedFolder(path.parent, 1, ".npy", key="ISTD.VFM.CACHE")
    folder._path = lambda key: path
    folder.write("key", MASK.tobytes())


def write_coco(path: Path) -> None:
    box = {"image_id": 1, "category_id": 7, "bbox": [4, 3, 7, 6], "iscrowd": 0, "area": 42}
    segmentations = [
        [[4, 3, 11.5, 3, 11.5, 9, 4, 9.25]],
        encode_mask(MASK)["segmentation"],
        {"size": [20, 30], "counts": [83, 6, 511]},
    ]
    content = {
        "images": [{"id": 1, "file_name": f"{path.stem}.png", "height": 20, "width": 30}],
        "categories": [{"id": 7, "name": "target"}],
        "annotations": [{"id": n, "segmentation": part, **box} for n, part in enumerate(segmentations)],
    }
    path.write_text(json.dumps(content))
    write_picture(path.with_suffix(".png"))


def read_coco(path: Path) -> list[torch.Tensor]:
    mapper = LabeledMapper(augmentations=[], image_format="BGR", recompute_boxes=True)
    name = f"mutated {next(NUMBERS)}"  # Detectron2 keeps the classes of a name.
    return [mapper(record)["instances"].gt_masks.tensor for record in load_coco(name, str(path), str(path.parent))]


def write_points(path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "x", "y"], ["image", 5, 7], ["image", 11.4, 2], ["empty", "", ""]])


def read_points(path: Path) -> list[list[int]]:
    return PointSource(path)("mutated_coco_points" if path.suffix == ".json" else "image", 20, 30)


def write_voc(path: Path) -> None:
    sides = "".join(f"<{name}>{side}</{name}>" for name, side in (("xmin", 3), ("ymin", 5), ("xmax", 8), ("ymax", 6)))
    path.write_text(f"<annotation><object><bndbox>{sides}</bndbox></object></annotation>")


def read_voc(path: Path) -> list[list[int]]:
    return PointSource(path.parent)(path.stem, 20, 30)


def write_clusters(path: Path) -> None:
    ClusterTable({"a": 0, "b": 1}, features=["mean"]).save(path)


def write_curve(path: Path) -> None:
    path.write_text(json.dumps({"metrics": {"all": {"AUC": 0.75, "ROC": {"fpr": [1, 0.5, 0], "tpr": [1, 1, 0.0]}}}}))


def write_picture(path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 9, MASK.shape).astype(np.uint8)
    Image.fromarray(MASK * 255 if "mask" in path.stem else values).save(path)


def write_deep(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 4000, MASK.shape).astype(np.uint16)).save(path)


def run_model(path: Path) -> np.ndarray:
    probability = open_model(path)(np.full(MASK.shape, 90, np.float32))
    assert probability.shape == MASK.shape and probability.dtype == np.float32
    return probability


KINDS = {
    "checkpoint": Kind(".pth", write_checkpoint, lambda path: load_weights(path, "KEY"), exact=True),
    "network": Kind(".pth", write_network, lambda path: load_network(path)[1], exact=True),
    "legacy": Kind(".pth", write_legacy, lambda path: load_network(path)[1]),
    "zoo": Kind(".pkl", write_zoo, read_zoo),
    "safetensors": Kind(".safetensors", write_safetensors, lambda path: load_weights(path, "KEY")),
    "pseudo_masks": Kind(".npz", write_masks, lambda path: dict(PseudoMasks.read(path)), exact=True),
    "cache": Kind(".npy", write_cached, read_cached),
    "coco": Kind(".json", write_coco, read_coco, may_crash=True),
    "coco_points": Kind(".json", write_coco, read_points, may_crash=True),
    "points": Kind(".csv", write_points, read_points),
    "voc_points": Kind(".xml", write_voc, read_voc),
    "clusters": Kind(".json", write_clusters, lambda path: dict(ClusterTable.load(path))),
    "curve": Kind(".json", write_curve, read_curve),
    "mask": Kind(".png", write_picture, read_mask),
    "picture": Kind(".png", write_picture, lambda path: read_image(str(path), "BGR")),
    "deep_picture": Kind(".png", write_deep, read_infrared),
    "onnx": Kind(".onnx", lambda path: export_student(small_network(), RECIPE, path), run_model, may_crash=True),
}


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Flip bits, cut, insert or overwrite bytes, once or a few times."""
    for _ in range(draw.choice((1, 1, 1, 3))):
        length = len(content)
        place = draw.randrange(max(1, length))
        if draw.random() < 0.5:
            place = draw.choice((min(place, draw.randrange(END)), max(place, length - 1 - draw.randrange(END))))
        change = draw.choice(("flip", "flip", "flip", "cut", "insert", "overwrite"))
        few = draw.randbytes(draw.randint(1, 8))
        if change == "flip" and content:
            content = content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
        elif change == "cut":
            content = content[:place] + content[place + draw.choice((1, 4, length)) :]
        elif change == "insert":
            content = content[:place] + few + content[place:]
        else:
            content = content[:place] + few + content[place + len(few) :]
    return content


def faults(name: str, folder: Path, count: int = COUNT, seed: int = 0) -> list[str]:
    """Return a line for each mutation that ends otherwise than by a clear sentence or the right result."""
    kind = KINDS[name]
    path = folder / f"mutated_{name}{kind.suffix}"
    kind.write(path)
    whole = path.read_bytes()
    result = kind.read(path)
    found = []
    draw = random.Random(f"{name} {seed}")
    for number in range(count):
        path.write_bytes(mutate(whole, draw))
        print(f"{name} {number}", file=sys.stderr, flush=True)
        try:
            again = kind.read(path)
        except (ValueError, OSError, KeyError) as error:
            sentence = str(error)
            if path.stem not in sentence or "\n" in sentence:
                found.append(f"{name} {number}: unclear: {type(error).__name__}: {sentence[:300]}")
        except Exception as error:
            found.append(f"{name} {number}: {type(error).__name__}: {str(error)[:300]}")
        else:
            if kind.exact and not is_same(again, result):
                found.append(f"{name} {number}: another result")
    return found


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.may_crash])
def test_a_mutated_file_is_named_or_right(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert faults(name, tmp_path) == []


def test_a_mutated_file_crashes_nothing(tmp_path):
    names = [name for name, kind in KINDS.items() if kind.may_crash]
    if not all(importlib.util.find_spec(library) for library in ("onnx", "onnxruntime")):
        names.remove("onnx")
    command = [sys.executable, __file__, ",".join(names), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + COUNT)
    assert done.returncode == 0, f"it ended by {done.returncode} at {done.stderr[-500:]}"
    assert json.loads(done.stdout.splitlines()[-1]) == []


if __name__ == "__main__":
    logging.disable()
    torch.set_num_threads(1)
    kinds, place, *numbers = sys.argv[1:]
    print(json.dumps([line for name in kinds.split(",") for line in faults(name, Path(place), *map(int, numbers))]))
