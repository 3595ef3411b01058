"""COCO AP: faster-coco-eval against pycocotools, boundary AP by hand, and what the configuration chooses."""

import copy
import json
import logging
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from s4m import add_s4m_config
from s4m.evaluation import coco
from s4m.evaluation.coco import FasterCOCOEvaluator, build_coco_evaluator


def written(data, folder):
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return path


def config(tmp_path, **options):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    for key, value in options.items():
        setattr(cfg.S4M.COCO_EVAL, key, value)
    return cfg


def square(left: int, side: int = 100) -> np.ndarray:
    mask = np.zeros((200, 200), np.uint8)
    mask[50 : 50 + side, left : left + side] = 1
    return mask


def one_square(tmp_path, name):
    """A registered data set of one image with one square of 100 pixels at x = 50."""
    rle = mask_util.encode(np.asfortranarray(square(50)))
    rle["counts"] = rle["counts"].decode()
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [50, 50, 100, 100], "area": 10000, "iscrowd": 0}
    data = {
        "images": [{"id": 7, "file_name": "7.png", "height": 200, "width": 200}],
        "annotations": [{**annotation, "segmentation": rle}],
        "categories": [{"id": 3, "name": "square"}],
    }
    MetadataCatalog.get(name).set(
        json_file=str(written(data, tmp_path)),
        thing_classes=["square"],
        thing_dataset_id_to_contiguous_id={3: 0},
    )


def predicted(left: int) -> dict:
    found = Instances((200, 200))
    found.pred_boxes = Boxes(torch.tensor([[left, 50.0, left + 100, 150]]))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    found.pred_masks = torch.from_numpy(square(left)).bool()[None]
    return {"instances": found}


def band(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a square mask that are less than `width` + 1 from its edge (inside of the image)."""
    rows, columns = np.nonzero(mask)
    inner = np.zeros_like(mask)
    inner[rows.min() + width : rows.max() + 1 - width, columns.min() + width : columns.max() + 1 - width] = 1
    return mask - inner


@pytest.mark.parametrize("shift", [0, 1, 3, 30])
def test_boundary_ap_by_hand(tmp_path, shift):
    name = f"boundary-{tmp_path.name}"
    one_square(tmp_path, name)
    evaluator = build_coco_evaluator(config(tmp_path, BOUNDARY=True), name)
    evaluator.reset()
    evaluator.process([{"image_id": 7}], [predicted(50 + shift)])
    results = evaluator.evaluate()
    width = round(0.02 * math.hypot(200, 200))
    masks = square(50), square(50 + shift)
    edges = [band(mask, width) for mask in masks]
    overlaps = [(one & other).sum() / (one | other).sum() for one, other in (masks, edges)]
    thresholds = np.arange(0.5, 0.96, 0.05).round(2)
    for task, overlap in (("segm", overlaps[0]), ("boundary", min(overlaps))):
        assert results[task]["AP"] == pytest.approx(100 * (overlap >= thresholds).mean()), task
    assert shift != 3 or results["boundary"]["AP"] < results["segm"]["AP"]


def test_results_are_repeated_written_and_of_the_data_sets_categories(tmp_path):
    name = f"repeated-{tmp_path.name}"
    one_square(tmp_path, name)
    evaluator = build_coco_evaluator(config(tmp_path, BOUNDARY=True, BOUNDARY_RATIO=0.05), name)
    results = []
    for _ in range(2):
        evaluator.reset()
        evaluator.process([{"image_id": 7}], [predicted(53)])
        before = copy.deepcopy(evaluator._predictions)
        results.append([evaluator.evaluate(), evaluator.evaluate(img_ids=[7])])
        assert evaluator._predictions == before
    first = results[0][0]
    for other in (results[0][1], *results[1]):
        np.testing.assert_equal(other, first)
    (item,) = json.loads((tmp_path / "output/inference/coco_instances_results.json").read_text())
    assert item["category_id"] == 3 and item["bbox"] == [53, 50, 100, 100]
    narrow = build_coco_evaluator(config(tmp_path, BOUNDARY=True), name)
    narrow.reset()
    narrow.process([{"image_id": 7}], [predicted(53)])
    assert narrow.evaluate()["boundary"]["AP"] < first["boundary"]["AP"]


@pytest.mark.parametrize(
    ("installed", "options", "sentence"),
    [
        (True, {}, "faster-coco-eval computes COCO AP, with 100 detections an image."),
        (True, {"MAX_DETS": 250}, "faster-coco-eval computes COCO AP, with 250 detections an image."),
        (True, {"FAST": False}, "Detectron2 itself computes COCO AP, because S4M.COCO_EVAL.FAST is off."),
        (False, {}, "Detectron2 itself computes COCO AP, because faster-coco-eval is not installed."),
    ],
)
def test_the_log_tells_what_computes(tmp_path, monkeypatch, caplog, installed, options, sentence):
    name = f"told-{tmp_path.name}"
    one_square(tmp_path, name)
    monkeypatch.setattr(coco, "INSTALLED", installed)
    with caplog.at_level(logging.INFO, logger=coco.__name__):
        evaluator = build_coco_evaluator(config(tmp_path, **options), name)
    assert [record.getMessage() for record in caplog.records if record.name == coco.__name__] == [sentence]
    fast = installed and "FAST" not in options
    assert type(evaluator) is (FasterCOCOEvaluator if fast else COCOEvaluator)


def test_above_100_detections_of_the_network_all_count(tmp_path):
    name = f"limits-{tmp_path.name}"
    one_square(tmp_path, name)
    for per_image, max_dets, expected in ((30, 0, 100), (100, 0, 100), (375, 0, 375), (375, 100, 100)):
        for fast in (True, False):
            cfg = config(tmp_path, FAST=fast, MAX_DETS=max_dets)
            cfg.TEST.DETECTIONS_PER_IMAGE = per_image
            assert build_coco_evaluator(cfg, name)._max_dets_per_image == [1, 10, expected]


def test_wrong_options_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="S4M.COCO_EVAL.BOUNDARY needs faster-coco-eval.*FAST is off"):
        build_coco_evaluator(config(tmp_path, BOUNDARY=True, FAST=False), "any")
    with pytest.raises(ValueError, match="S4M.COCO_EVAL.MAX_DETS must be 0, or 10 or more, but is 5"):
        build_coco_evaluator(config(tmp_path, MAX_DETS=5), "any")
    monkeypatch.setattr(coco, "INSTALLED", False)
    with pytest.raises(ValueError, match="BOUNDARY needs faster-coco-eval .*pip install"):
        build_coco_evaluator(config(tmp_path, BOUNDARY=True), "any")
