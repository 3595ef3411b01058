"""Every case of S4M_TEST_DATA/cases gives its expected outcome: inputs as annotation tools and people leave them."""

import importlib.util
import json
import logging
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from s4m.config import add_s4m_config
from s4m.data.datasets_by_path import resolve_config_datasets
from s4m.data.mappers import LabeledMapper
from s4m.data.tiles import write_tiles
from s4m.data.two_stream import build_two_stream_loader
from s4m.evaluation.build import build_evaluator

SCRIPTS = Path(os.environ.get("S4M_TEST_DATA") or "absent", "cases")
pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="S4M_TEST_DATA holds no folder 'cases'")
COLORS = {"disc": (250, 120, 100), "square": (110, 230, 120), "triangle": (120, 150, 255)}  # RGB
# What the one sentence of a refusal says beside the file.
REASONS = {
    "exif_stored_frame": r"train_\d\.jpg' .* EXIF orientation 6",
    "polygons_normalised": "within 0..1 and are no pixels",
    "crowd_all": "all 10 annotations are iscrowd 1",
    "rle_cut_off": "annotation 102 has .* damaged RLE",
    "category_id_twice": "two categories have the id 2",
    "polygon_nan": "annotation 102 has a coordinate that is no number",
    "coordinates_huge": "annotation 102 has a polygon that reaches far beyond its image",
    "category_without_name": "category 2 has no name",
}
# What a warning says, with its count.
WARNINGS = {
    "val_lacks_a_class": ["val.json.*lacks: 1, .*'disc'"],
    **{
        f"bbox_{fault}": [r"train.json': boxes .* recomputed: 10\b", r"val.json': boxes .* recomputed: 7\b"]
        for fault in ("zero", "nan", "negative", "xyxy")
    },
    "crowd_half": ["train.json': .*iscrowd 1.* 5 of 10", "val.json': .*iscrowd 1.* 4 of 7"],
    "unlabelled_is_val": [r"3 unlabeled image\(s\) are images of DATASETS.TEST, for example '.*val_1.png'"],
    "unlabelled_torn": ["left out: 2, .*a_zero.jpg.*b_torn.png"],
    "empty_segmentation": ["train.json': .* skipped: 1,", "val.json': .* skipped: 1,"],
}


def names():
    if not SCRIPTS.is_dir():
        return []
    sys.path.insert(0, str(SCRIPTS))
    try:
        specification = importlib.util.spec_from_file_location("make_s4m_cases", SCRIPTS / "make_s4m_cases.py")
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return list(module.CASES)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Folder of the cases, and the content of expected.json."""
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, SCRIPTS / "make_s4m_cases.py", folder], check=True)
    return folder, json.loads((folder / "expected.json").read_text())


@pytest.fixture
def case(request, table, monkeypatch):
    """A case: its configuration, its folder of truth and its line of expected.json."""
    folder, expected = table
    name = request.param
    base = folder / name
    base = base / "run_12:30" if name == "colon_in_path" else base
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.DATASETS.TRAIN = (f"coco:{base}/train.json:{base}/images",)
    cfg.DATASETS.TEST = (f"coco:{base}/val.json:{base}/images",)
    cfg.DATASETS.UNLABELED = (f"folder:{base}/more",) if (base / "more").is_dir() else ()
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.S4M.UNLABELED_BATCH = 1
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(folder / "output" / name)
    yield SimpleNamespace(name=name, cfg=cfg, folder=base, **expected[name])
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *cfg.DATASETS.UNLABELED):
        DatasetCatalog.pop(dataset, None)
        MetadataCatalog.pop(dataset, None)


def start(cfg):
    """Do what a training does before its first iteration."""
    resolve_config_datasets(cfg)
    return build_two_stream_loader(cfg)


def truth_of(case, file_name):
    """Masks (N, H, W) and classes of an image, from the pictures of the truth."""
    stem = Path(file_name).stem
    labels = cv2.imread(str(case.folder / "truth" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
    objects = json.loads((case.folder / "truth" / "objects.json").read_text())[stem]
    return np.stack([labels == one["label"] for one in objects]), [one["class"] for one in objects]


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


def box_overlap(first, second):
    size = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    inner = max(size[0], 0) * max(size[1], 0)
    return inner / (np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - inner)


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def arrived(case, dataset):
    """Number of true objects that the mapper gives with their class, mask and box."""
    mapper = LabeledMapper(augmentations=[], image_format="RGB", recompute_boxes=False)
    classes = MetadataCatalog.get(dataset).thing_classes
    count = 0
    for record in DatasetCatalog.get(dataset):
        masks, kinds = truth_of(case, record["file_name"])
        instances = mapper(record)["instances"]
        for mask, kind in zip(masks, kinds, strict=True):
            count += any(
                classes[index] == kind and overlap(given, mask) >= 0.95 and box_overlap(box, box_of(mask)) >= 0.9
                for given, box, index in zip(
                    instances.gt_masks.tensor.numpy(),
                    instances.gt_boxes.tensor.numpy(),
                    instances.gt_classes.tolist(),
                    strict=True,
                )
            )
    return count


def perfect(case, record, classes, left_out):
    """The true objects of an image as predictions of a network of the training set's classes."""
    masks, kinds = truth_of(case, record["file_name"])
    kept = [i for i, mask in enumerate(masks) if not any(overlap(mask, other) > 0.9 for other in left_out)]
    result = Instances(masks.shape[1:])
    result.pred_masks = torch.from_numpy(masks[kept])
    result.pred_boxes = Boxes(torch.tensor(np.array([box_of(masks[i]) for i in kept]).reshape(-1, 4)).float())
    result.pred_classes = torch.tensor([classes.index(kinds[i]) for i in kept], dtype=torch.int64)
    result.scores = torch.full((len(kept),), 0.9)
    return result


def score(case, fast):
    """AP of masks and boxes of perfect predictions on val.json; skipped objects and crowds are not predicted."""
    case.cfg.S4M.COCO_EVAL.FAST = fast
    train, val = case.cfg.DATASETS.TRAIN[0], case.cfg.DATASETS.TEST[0]
    mapper = LabeledMapper(augmentations=[], image_format="RGB", recompute_boxes=False)
    evaluator = build_evaluator(case.cfg, val)
    evaluator.reset()
    for record in DatasetCatalog.get(val):
        given = mapper(record)["instances"].gt_masks.tensor.numpy()
        masks, _ = truth_of(case, record["file_name"])
        left_out = [mask for mask in masks if not any(overlap(mask, other) > 0.9 for other in given)]
        predictions = perfect(case, record, MetadataCatalog.get(train).thing_classes, left_out)
        evaluator.process([record], [{"instances": predictions}])
    results = evaluator.evaluate()
    return results["segm"]["AP"], results["bbox"]["AP"]


def contrast(case, dataset):
    """Least gray levels of an image's objects above its background, as training reads it."""
    mapper = LabeledMapper(augmentations=[], image_format="RGB", recompute_boxes=False)
    levels = []
    for record in DatasetCatalog.get(dataset):
        gray = mapper(record)["image"].float().mean(0).numpy()
        mask = truth_of(case, record["file_name"])[0].any(0)
        levels.append(gray[mask].mean() - gray[~mask].mean())
    return min(levels)


def check_tiles(case):
    path = write_tiles(case.folder / "train.json", case.folder / "images", case.folder / "tiles", tile=128)
    data = json.loads(path.read_text())
    assert len(data["images"]) == case.numbers["tiles"] and len(data["annotations"]) == case.numbers["objects"]
    kinds = {category["id"]: category["name"] for category in data["categories"]}
    import pycocotools.mask as mask_util

    for annotation in data["annotations"]:
        [image] = [image for image in data["images"] if image["id"] == annotation["image_id"]]
        pixels = cv2.imread(str(path.parent / "images" / image["file_name"]))[..., ::-1]
        mask = mask_util.decode(annotation["segmentation"]).astype(bool)
        assert np.abs(pixels[mask].mean(0) - COLORS[kinds[annotation["category_id"]]]).max() < 25


@pytest.mark.parametrize("case", names(), indirect=True)
def test_case(case, caplog):
    if case.name.startswith("tiles"):
        return check_tiles(case)
    caplog.set_level(logging.WARNING)
    if case.outcome == "refuse":
        with pytest.raises(ValueError, match=REASONS[case.name]) as caught:
            start(case.cfg)
        assert "train.json" in str(caught.value) and "\n" not in str(caught.value)
        return None
    loader = start(case.cfg)
    for pattern in WARNINGS.get(case.name, ()):
        assert any(re.search(pattern, record.getMessage()) for record in caplog.records), pattern
    if "used" in case.numbers:
        assert len(loader.unlabeled.dataset) == case.numbers["used"]
    assert next(iter(loader))["labeled"]
    train, val = case.cfg.DATASETS.TRAIN[0], case.cfg.DATASETS.TEST[0]
    assert arrived(case, train) == case.numbers["train_objects"]
    assert arrived(case, val) == case.numbers["val_objects"]
    if "grey_levels_of_objects_above_background" in case.numbers:
        least = case.numbers["grey_levels_of_objects_above_background"]["at_least"]
        assert contrast(case, train) >= least
    for fast in (True, False):
        assert score(case, fast) == (pytest.approx(100), pytest.approx(100))
    return None


def test_both_jsons_of_a_cut_off_rle_are_refused(table):
    folder, expected = table
    for name, annotation in expected["rle_cut_off"]["numbers"]["annotation_of_file"].items():
        dataset = f"coco:{folder}/rle_cut_off/{name}:{folder}/rle_cut_off/images"
        cfg = get_cfg()
        add_s4m_config(cfg)
        cfg.DATASETS.TRAIN = (dataset,)
        with pytest.raises(ValueError, match=f"{name}': annotation {annotation} has .* damaged RLE"):
            start(cfg)


def test_a_prediction_of_a_class_that_validation_lacks_is_no_crash(table, caplog):
    folder, _ = table
    base = folder / "val_lacks_a_class"
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.OUTPUT_DIR = str(folder / "output" / "lacks")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ((f"coco:{base}/{name}.json:{base}/images",) for name in ("train", "val"))
    start(cfg)
    case = SimpleNamespace(folder=base)
    for cfg.S4M.COCO_EVAL.FAST in (True, False):
        evaluator = build_evaluator(cfg, cfg.DATASETS.TEST[0])
        evaluator.reset()
        for record in DatasetCatalog.get(cfg.DATASETS.TEST[0]):
            right = perfect(case, record, ["disc", "square", "triangle"], [])
            disc = perfect(case, record, ["disc", "square", "triangle"], [])
            disc.pred_classes[:] = 0
            evaluator.process([record], [{"instances": Instances.cat([right, disc])}])
        assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)


def _limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (10_000_000 * 1024, 10_000_000 * 1024))


def test_the_command_refuses_wild_coordinates_in_little_memory(table):
    folder, _ = table
    bases = [folder / name for name in ("polygon_nan", "coordinates_huge")]
    code = "import sys; from s4m.cli import main; sys.exit(sum(main(['check', *a.split()]) for a in sys.argv[1:]))"
    commands = [f"coco:{base}/train.json:{base}/images" for base in bases]
    done = subprocess.run(
        [sys.executable, "-c", code, *commands], capture_output=True, text=True, preexec_fn=_limit_memory
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.count("annotation 102 has") == 2
